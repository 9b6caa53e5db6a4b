/* The worked example: which thread state each Ensure of one thread chooses, and what each Release
 * restores. */

#define API_DRAFT
#include "harness.h"

static PyInterpreterRef refs[2]; /* main, sub */

/* Where the thread is: with this thread state, of this interpreter, non-daemon, and Python works. */
static void check_at(PyThreadState *state, PyInterpreterRef ref)
{
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_PTR(attached(), state);
    CHECK_PTR(attached_interpreter(), PyInterpreterRef_AsInterpreter(ref));
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    run("visits += 1");
    /* Legacy code below takes the same one. */
    CHECK_PTR(PyGILState_GetThisThreadState(), state);
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(legacy);
    CHECK_PTR(PyThreadState_Get(), state);
}

static PyThreadState *ensure(PyInterpreterRef ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyThreadState *state = PyThreadState_Get();
    check_at(state, ref);
    return state;
}

static void ladder(void *unused)
{
    (void)unused;
    CHECK_PTR(attached(), NULL);

    /* From nothing: Ensure(main) creates. */
    PyThreadState *a = ensure(refs[0]);
    uint64_t id = PyThreadState_GetID(a);
    CHECK_INT(count_thread_states(), 2);

    /* Ensure(main) again reuses. */
    CHECK_PTR(ensure(refs[0]), a);
    CHECK_INT(count_thread_states(), 2);

    /* Detach, Ensure(main) reattaches the same one, Release detaches it again. */
    CHECK_PTR(PyEval_SaveThread(), a);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(ensure(refs[0]), a);
    CHECK_INT(PyThreadState_GetID(a), id);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);

    /* Reattach. */
    PyEval_RestoreThread(a);
    check_at(a, refs[0]);

    /* Ensure(sub) creates one for the subinterpreter. */
    PyThreadState *b = ensure(refs[1]);
    CHECK(b != a);
    CHECK_INT(count_thread_states(), 2);

    /* Ensure(main) creates another one for main. */
    PyThreadState *c = ensure(refs[0]);
    CHECK(c != a && c != b);
    CHECK(PyThreadState_GetID(c) != id);
    CHECK_INT(count_thread_states(), 3);

    /* Each Release restores exactly the level below. */
    PyThreadState_Release();
    check_at(b, refs[1]);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release();
    check_at(a, refs[0]);
    CHECK_INT(PyThreadState_GetID(a), id);
    CHECK_INT(count_thread_states(), 2); /* the main thread's and `a`: `c` is deleted */
    PyThreadState_Release();
    check_at(a, refs[0]);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    log_event("climbed");
}

static PyThreadState *subinterpreter;

static void begin(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    run("visits = 0");
    refs[0] = PyInterpreterRef_Get();
    PyThreadState *own = PyThreadState_Get();
    subinterpreter = new_interpreter();
    swap(own, subinterpreter);
    run("visits = 0");
    refs[1] = PyInterpreterRef_Get();
    swap(subinterpreter, own);
    CHECK(refs[0] != 0 && refs[1] != 0);
}

static void end(void)
{
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterRef_Close(refs[0]);
    PyInterpreterRef_Close(refs[1]);
    sub_end(subinterpreter);
    py_finalize();
}

SCENARIO(from_nothing, "The worked example, on one thread, from nothing")
{
    begin(sub_new);
    py_thread_join(thread_start(ladder, NULL));
    end();
    expect_log("climbed");
}

static void ladder_twice(void *unused)
{
    ladder(unused);
    ladder(unused);
}

SCENARIO(from_nothing_again, "The worked example again on the same thread: the first round has left nothing")
{
    begin(sub_new);
    py_thread_join(thread_start(ladder_twice, NULL));
    end();
    expect_log("climbed,climbed");
}

// pythons: >=3.12
SCENARIO(from_nothing_isolated, "The worked example where the subinterpreter has a GIL of its own")
{
    begin(sub_new_isolated);
    py_thread_join(thread_start(ladder, NULL));
    end();
    expect_log("climbed");
}

/* The main thread and those of `threading` have a thread state to begin with. */
static void ladder_from(PyThreadState *own, PyInterpreterRef mine, PyInterpreterRef other)
{
    int before = count_thread_states();
    CHECK_PTR(ensure(mine), own);
    CHECK_PTR(PyEval_SaveThread(), own);
    CHECK_PTR(ensure(mine), own);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(own);

    PyThreadState *there = ensure(other);
    CHECK(there != own);
    PyThreadState *back = ensure(mine);
    CHECK(back != own && back != there);
    CHECK_INT(count_thread_states(), before + 1);
    PyThreadState_Release();
    check_at(there, other);
    PyThreadState_Release();
    check_at(own, mine);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), before);
}

SCENARIO(from_the_main_thread, "The same from the main thread: its own thread state is reused, attached or not")
{
    begin(sub_new);
    ladder_from(PyThreadState_Get(), refs[0], refs[1]);
    end();
}

/* Up to 3.11 `PyGILState` always knows the main thread by its first thread state. */
// pythons: >=3.12
SCENARIO(from_a_subinterpreters_own_thread_state, "The same from the main thread while it is attached to a subinterpreter")
{
    begin(sub_new);
    PyThreadState *own = PyThreadState_Get();
    swap(own, subinterpreter);
    ladder_from(subinterpreter, refs[1], refs[0]);
    swap(subinterpreter, own);
    end();
}

static void ladder_from_here(void)
{
    ladder_from(PyThreadState_Get(), refs[0], refs[1]);
    log_event("climbed");
}

SCENARIO(from_threading, "The same from a thread of `threading`, daemon or not")
{
    begin(sub_new);
    expose("climb", ladder_from_here);
    run("import threading\n"
        "for daemon in False, True:\n"
        "    thread = threading.Thread(target=climb, daemon=daemon)\n"
        "    thread.start()\n"
        "    thread.join()");
    end();
    expect_log("climbed,climbed");
}
