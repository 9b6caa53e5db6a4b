/* The draft's PyThreadState_Release, which takes no token: one too many, and with the wrong thread
 * state. */

#define API_DRAFT
#include "harness.h"

static event ready = EVENT_INIT;
static event held = EVENT_INIT;
static event never = EVENT_INIT;

static PyInterpreterRef ref_here(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

/* --- Too many -------------------------------------------------------------------------------------- */

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(without_any_ensure, "A Release without an Ensure is a fatal error, attached")
{
    py_init();
    PyThreadState_Release();
}

static void release_nothing(void *unused)
{
    (void)unused;
    PyThreadState_Release();
    _exit(0);
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(without_any_ensure_detached, "A Release without an Ensure is a fatal error, detached")
{
    py_init();
    py_thread_join(thread_start(release_nothing, NULL));
}

static void release_a_gilstate(void *unused)
{
    (void)unused;
    PyGILState_Ensure();
    PyThreadState_Release();
    _exit(0);
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(of_a_gilstate_ensure, "PyGILState_Ensure is not undone by PyThreadState_Release")
{
    py_init();
    py_thread_join(thread_start(release_a_gilstate, NULL));
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many, "One Release too many is a fatal error, with the thread's own state attached")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyThreadState_Release();
    PyThreadState_Release();
    PyThreadState_Release();
}

static void release_twice(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyThreadState_Release();
    PyThreadState_Release();
    _exit(0);
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many_in_a_thread, "One Release too many is a fatal error, with the thread state gone")
{
    py_init();
    py_thread_join(thread_start(release_twice, ref_here()));
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many_stealing, "One Release too many of Pep788_EnsureStealing is a fatal error")
{
    py_init();
    CHECK_INT(Pep788_EnsureStealing(ref_here()), 0);
    PyThreadState_Release();
    PyThreadState_Release();
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many_by_its_other_name, "One Pep788_Release too many is a fatal error")
{
    py_init();
    CHECK_INT(Pep788_Ensure(ref_here()), 0);
    Pep788_Release();
    Pep788_Release();
}

static void ensure_and_stay(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyEval_SaveThread();
    event_set(&ready);
    event_wait(&never);
}

// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(in_another_thread, "An Ensure is released in its own thread")
{
    py_init();
    thread_start(ensure_and_stay, ref_here());
    py_event_wait(&ready);
    PyThreadState_Release();
}

/* --- The wrong thread state --------------------------------------------------------------------------- */

static void release_detached(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyEval_SaveThread();
    PyThreadState_Release();
    _exit(0);
}

// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached, "A Release without an attached thread state is a fatal error: nobody has the GIL")
{
    py_init();
    py_thread_join(thread_start(release_detached, ref_here()));
}

// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached_in_the_main_thread, "A Release without an attached thread state is a fatal error in the main thread")
{
    py_init();
    release_detached(ref_here());
}

static void release_while_another_runs(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyEval_SaveThread();
    event_set(&ready);
    event_wait(&held);
    PyThreadState_Release();
    _exit(0);
}

// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached_while_another_has_the_gil,
         "A Release without an attached thread state is a fatal error: another thread has the GIL")
{
    py_init();
    thread_start(release_while_another_runs, ref_here());
    py_event_wait(&ready);
    /* Has the GIL, and keeps it. */
    event_set(&held);
    event_wait(&never);
}

// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(attached_to_another_interpreter, "A Release needs the thread state of its Ensure, not one of another interpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    CHECK_INT(PyThreadState_Ensure(ref_here()), 0);
    swap(PyThreadState_Get(), sub);
    PyThreadState_Release();
}

/* A debug build up to 3.11 does not allow the second thread state. */
// pythons: release
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(attached_to_another_thread_state, "A Release needs the thread state of its Ensure, not another one of the interpreter")
{
    py_init();
    PyThreadState *other = PyThreadState_New(PyInterpreterState_Get());
    CHECK_INT(PyThreadState_Ensure(ref_here()), 0);
    swap(PyThreadState_Get(), other);
    PyThreadState_Release();
}
