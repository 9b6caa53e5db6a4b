// A library with threads of its own, such as there are many. It is built without libpep788, and
// knows nothing of it.
//
// Some threads are joined when the program ends, as C++ programs do that own what their threads use; nobody joins the others.
//
// Each thread calls into Python through a C++ function that lets no exception through, in a loop, until the
// process is gone. What the threads did not come to the end of is counted when it exits.

#include "toolkits/owner.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

// As in Python.h: one library for all versions.
extern "C" int PyGILState_Ensure();
extern "C" void PyGILState_Release(int);
extern "C" void *PyEval_SaveThread();
extern "C" void PyEval_RestoreThread(void *);
extern "C" int PyRun_SimpleStringFlags(const char *, void *);

namespace {

// Calls that Python code was begun for, and those that came to their end.
std::atomic<long> begun, ended;

void (*callback)();

void python()
{
    begun++;
    PyRun_SimpleStringFlags("x = sum(range(50))", nullptr);
    ended++;
}

// --- What the threads do --------------------------------------------------------------------------

void calls_back() noexcept
{
    callback();
}

void nests() noexcept
{
    int outer = PyGILState_Ensure();
    int inner = PyGILState_Ensure();
    python();
    PyGILState_Release(inner);
    python();
    PyGILState_Release(outer);
}

void detaches_inside() noexcept
{
    int state = PyGILState_Ensure();
    python();
    void *saved = PyEval_SaveThread();
    usleep(100);
    int again = PyGILState_Ensure();
    python();
    PyGILState_Release(again);
    PyEval_RestoreThread(saved);
    python();
    PyGILState_Release(state);
}

// Waits inside, for something that does not come before the process ends.
void stays() noexcept
{
    PyGILState_Ensure();
    python();
    PyEval_SaveThread();
    for (;;) {
        pause();
    }
}

// GLib's, which this is not linked with.
int (*iteration)(void *context, int may_block);

void dispatches(void *context) noexcept
{
    iteration(context, 1);
}

void *main_loop(void *context)
{
    for (;;) {
        dispatches(context);
    }
    return nullptr;
}

// Calls every so many microseconds; once, if that is less than 0.
void *rests(void *microseconds)
{
    long pause_between = reinterpret_cast<long>(microseconds);
    for (;;) {
        calls_back();
        if (pause_between < 0) {
            pause();
        }
        usleep(static_cast<useconds_t>(pause_between));
    }
    return nullptr;
}

template <void (*action)() noexcept> void *loop(void *)
{
    for (;;) {
        action();
    }
    return nullptr;
}

// --- Threads that are joined --------------------------------------------------------------------

// Destroyed after Python's end, unless it was stopped before.
Owner owner;

void start(void *(*body)(void *), int threads, void *argument = nullptr)
{
    while (threads-- > 0) {
        pthread_t thread;
        pthread_create(&thread, nullptr, body, argument);
        pthread_detach(thread);
    }
}

// After Python's end, with the threads where they are.
__attribute__((destructor)) void count()
{
    long lost = begun - ended;
    std::fprintf(stderr, "lost %ld\n", lost);
}

} // namespace

extern "C" {

void start_callbacks(void (*function)(), int threads)
{
    callback = function;
    start(loop<calls_back>, threads);
}

void start_resting(void (*function)(), int threads, int microseconds)
{
    callback = function;
    start(rests, threads, reinterpret_cast<void *>(static_cast<long>(microseconds)));
}

void start_nesting(int threads) { start(loop<nests>, threads); }
void start_detaching(int threads) { start(loop<detaches_inside>, threads); }
void start_staying(int threads) { start(loop<stays>, threads); }

void start_main_loop(int (*function)(void *, int), void *context)
{
    iteration = function;
    start(main_loop, 1, context);
}

void start_owned_callbacks(void (*function)(), int threads)
{
    callback = function;
    owner.start([] { calls_back(); }, threads);
}

void start_owned_nesting(int threads) { owner.start([] { nests(); }, threads); }
void start_owned_detaching(int threads) { owner.start([] { detaches_inside(); }, threads); }

// The Python functions that call this let go of the GIL.
void stop_owned() { owner.stop(); }
void stop_owned_at_exit() { std::atexit(stop_owned); }

// For a thread that has the GIL: gives it up and takes it back, as every blocking call does.
void detach_for_ever() noexcept
{
    for (;;) {
        void *saved = PyEval_SaveThread();
        usleep(20);
        PyEval_RestoreThread(saved);
    }
}

// For callbacks that count themselves.
void call_begun() { begun++; }
void call_ended() { ended++; }

} // extern "C"
