/* C++ objects that own a thread which comes too late, and join it when they are destroyed: after the end of Python. */

// macos-file: no, the seatbelt is for Linux
// windows-file: no, the seatbelt is for Linux
// sanitize-file: not address thread, a thread that is ended by the kernel alone leaves them with what it had

#include "harness.h"
#include "pep788_gilstate.h"

#include <atomic>
#include <future>
#include <memory>
#include <thread>

namespace {

event ready = EVENT_INIT;
std::atomic<bool> stopped{false};
std::atomic<bool> has_returned{false};
std::atomic<bool> is_destroyed{false};

struct OfTheThread {
    bool is_used = false;
    ~OfTheThread() { is_destroyed = true; }
};

thread_local OfTheThread of_the_thread;

/* Nothing may be unwound through it. */
void call_until_stopped() noexcept
{
    of_the_thread.is_used = true;
    PyGILState_Release(PyGILState_Ensure());
    event_set(&ready);
    while (!stopped) {
        PyGILState_Release(PyGILState_Ensure());
    }
    has_returned = true;
}

/* No destructor of a thread that was ended has run. It may have seen in time that it was to stop. */
struct AtTheEnd {
    ~AtTheEnd() { CHECK(has_returned || !is_destroyed); }
};

/* As std::jthread of C++20 does. */
struct Joining {
    std::thread thread{call_until_stopped};
    ~Joining()
    {
        stopped = true;
        thread.join();
    }
};

void protect()
{
    py_init();
    CHECK_INT(Pep788_ProtectGILState(), 0);
}

}  // namespace

// repeat: 20
// expect: exit 3
SCENARIO(joined_by_a_static_object, "A static object joins its std::thread, which came too late; no thread_local object of that was destroyed")
{
    protect();
    /* Destroyed after the other. */
    static AtTheEnd at_the_end;
    static Joining joining;
    py_event_wait(&ready);
    py_finalize();
    exit(3);
}

// repeat: 20
// expect: exit 3
// musl: no, the std::async of zig's C++ library detaches its thread, and the future waits for what never comes
SCENARIO(joined_by_a_future, "... a std::future of std::async")
{
    protect();
    static AtTheEnd at_the_end;
    static struct Stops {
        std::future<void> future = std::async(std::launch::async, call_until_stopped);
        ~Stops() { stopped = true; }
    } stops;
    py_event_wait(&ready);
    py_finalize();
    exit(3);
}

// repeat: 20
// expect: exit 3
SCENARIO(joined_before_exit, "... a local object, between Py_FinalizeEx and the end of the process")
{
    protect();
    {
        auto joining = std::make_unique<Joining>();
        py_event_wait(&ready);
        py_finalize();
    }
    CHECK(has_returned || !is_destroyed);
    exit(3);
}
