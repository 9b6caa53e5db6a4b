// Libraries whose threads are wrong at exit, each in one way; and one that is not. For wheel/test_watch.
#include <Python.h>
#include <pep788.h>

#include <atomic>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

void call_python()
{
    PyRun_SimpleString("def called_back(): return sum(range(50))\ncalled_back()");
}

// A frame that no exception may leave, as in most C++ code that others call.
void calls_back() noexcept
{
    PyGILState_STATE state = PyGILState_Ensure();
    call_python();
    PyGILState_Release(state);
}

// As pybind11's gil_scoped_acquire, in a thread that Python does not know.
void calls_back_by_a_scope(PyInterpreterState *interpreter) noexcept
{
    PyThreadState *state = PyThreadState_New(interpreter);
    state->gilstate_counter = 0;
    PyEval_AcquireThread(state);
    state->gilstate_counter++;
    call_python();
    state->gilstate_counter--;
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

std::atomic<bool> stopped;
std::atomic<int> rounds;
std::atomic<pid_t> a_daemon;

// Python's end may be over before the daemon threads notice that it has begun. So the process waits for one of them to be ended, for five seconds
// at most.
struct Daemons {
    ~Daemons()
    {
        for (int i = 0; i < 5000 && a_daemon != 0 && syscall(SYS_tgkill, getpid(), a_daemon.load(), 0) == 0; i++) {
            usleep(1000);
        }
    }
} daemons;

struct Owner {
    std::vector<std::thread> threads;

    ~Owner()
    {
        stopped = true;
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
};

void start(int number, void (*body)())
{
    for (int i = 0; i < number; i++) {
        std::thread(body).detach();
    }
}

[[noreturn]] void calls_for_ever()
{
    for (;;) {
        calls_back();
    }
}

PyInterpreterState *interpreter;

[[noreturn]] void uses_scopes_for_ever()
{
    for (;;) {
        calls_back_by_a_scope(interpreter);
    }
}

PyInterpreterView *view;

void asks_first()
{
    while (PyThreadStateToken *token = PyThreadState_EnsureFromView(view)) {
        call_python();
        PyThreadState_Release(token);
    }
}

std::atomic<int> resting;

void calls_once_and_rests()
{
    calls_back();
    resting++;
    for (;;) {
        pause();
    }
}

// Not inlined, so that it is on the stack.
__attribute__((noinline)) void crash_here(volatile int *place)
{
    *place = 1;
}

void crashes()
{
    calls_back();
    crash_here(nullptr);
}

} // namespace

extern "C" {

void start_loops(void) { start(4, calls_for_ever); }

void start_scopes(void)
{
    interpreter = PyInterpreterState_Get();
    start(4, uses_scopes_for_ever);
}

void start_joined(void)
{
    static Owner owner;
    for (int i = 0; i < 4; i++) {
        owner.threads.emplace_back([] {
            while (!stopped) {
                calls_back();
            }
        });
    }
}

// For daemon threads of `threading`: gives up the GIL and takes it back, over and over.
void detach_for_ever(void) noexcept
{
    a_daemon = (pid_t)syscall(SYS_gettid);
    for (;;) {
        PyThreadState *state = PyEval_SaveThread();
        usleep(10);
        PyEval_RestoreThread(state);
        rounds++;
    }
}

int detached_rounds(void) { return rounds; }

void start_guarded(void)
{
    view = PyInterpreterView_FromCurrent();
    start(4, asks_first);
}

void start_resting(void) { start(4, calls_once_and_rests); }

int resting_threads(void) { return resting; }

void start_crashing(void) { start(1, crashes); }
}
