/* C++: threads with a `noexcept` function between themselves and Python. Before 3.14 CPython ends a
 * thread that attaches too late by unwinding it, which C++ turns into std::terminate. */

#include "harness.h"

#include <atomic>
#include <thread>
#include <vector>

namespace {

std::atomic<int> calls{0};
std::atomic<int> refused{0};

/* Whether Python was called. */
bool call_python(PyInterpreterView *view) noexcept
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token == nullptr) {
        return false;
    }
    run("x = sum(range(20))");
    PyThreadState_Release(token);
    return true;
}

void call_until_refused(PyInterpreterView *view)
{
    while (call_python(view)) {
        calls++;
    }
    refused++;
}

}  // namespace

// env: PEP788_DRAIN_GRACE_MS=20
// repeat: 20
// native: no, it starves: the guard count is never seen at zero
SCENARIO(threads_are_not_unwound, "No thread that attaches through a view is ended: not by unwinding either")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != nullptr);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back(call_until_refused, view);
    }
    while (calls < 20) {
        Py_BEGIN_ALLOW_THREADS
        std::this_thread::yield();
        Py_END_ALLOW_THREADS
    }
    py_finalize();
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK_INT(refused, 4);
    PyInterpreterView_Close(view);
}

SCENARIO(the_header_is_cxx, "The API can be used from C++")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != nullptr);
    std::thread thread([guard] {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != nullptr);
        run("x = 1");
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(guard);
    });
    py_finalize();
    thread.join();
}
