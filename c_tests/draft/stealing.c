/* Pep788_EnsureStealing, for code written for the revision in which Ensure consumes the reference. */

#define API_DRAFT
#include "harness.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;
static event finalized = EVENT_INIT;

static PyInterpreterRef ref_here(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

static PyInterpreterRef ref_of(PyThreadState *state)
{
    PyThreadState *caller = PyThreadState_Get();
    swap(caller, state);
    PyInterpreterRef ref = ref_here();
    swap(state, caller);
    return ref;
}

static void attach_once(void *ref)
{
    CHECK_PTR(attached(), NULL);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(count_thread_states(), 2);
    run("done += 1");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(consumes, "Pep788_EnsureStealing: as Ensure, and the caller's reference is consumed")
{
    py_init();
    run("done = 0");
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(attach_once, ref_here()));
        CHECK_INT(count_thread_states(), 1);
    }
    CHECK_INT(eval_long("done"), 3);
    PyThreadState *own = PyThreadState_Get();
    CHECK_INT(Pep788_EnsureStealing(ref_here()), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), own);
    /* Nobody closed any of the references. Would hang if one was still open. */
    py_finalize();
}

/* For longer than an exit takes that does not wait, there is none. Called with nothing attached. */
static void check_not_finalized(void)
{
    CHECK(!event_wait_ms(&finalized, 50));
}

static void stay(void *ref)
{
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    Py_BEGIN_ALLOW_THREADS
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run("x = sum(range(1000))");
    log_event("released");
    PyThreadState_Release();
}

SCENARIO(holds_until_release, "Pep788_EnsureStealing: the consumed reference holds the interpreter until the Release")
{
    py_init();
    pthread_t thread = thread_start(stay, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("released,finalized");
}

static void keep_a_copy(void *ref)
{
    PyInterpreterRef copy = PyInterpreterRef_Dup(ref);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    PyThreadState_Release();
    check_not_finalized();
    CHECK_INT(PyThreadState_Ensure(copy), 0);
    run("x = sum(range(1000))");
    PyThreadState_Release();
    log_event("closed");
    PyInterpreterRef_Close(copy);
}

SCENARIO(consumes_one, "Pep788_EnsureStealing: consumes the reference that it was given, and no copy of it")
{
    py_init();
    pthread_t thread = thread_start(keep_a_copy, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("closed,finalized");
}

static PyInterpreterRef of_main, of_sub;

static PyThreadState *steal(PyInterpreterRef ref)
{
    PyInterpreterState *interpreter = PyInterpreterRef_AsInterpreter(ref);
    CHECK_INT(Pep788_EnsureStealing(PyInterpreterRef_Dup(ref)), 0);
    CHECK_PTR(attached_interpreter(), interpreter);
    return PyThreadState_Get();
}

static void ladder(void *unused)
{
    (void)unused;
    PyThreadState *a = steal(of_main);
    CHECK_PTR(steal(of_main), a);
    PyEval_SaveThread();
    CHECK_PTR(steal(of_main), a);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(a);
    PyThreadState *b = steal(of_sub);
    PyThreadState *c = steal(of_main);
    CHECK(a != b && a != c && b != c);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), b);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), a);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), a);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    log_event("climbed");
}

SCENARIO(chooses_as_ensure_does, "Pep788_EnsureStealing: as Ensure, also in which thread state it chooses")
{
    py_init();
    PyThreadState *sub = sub_new();
    of_main = ref_here();
    of_sub = ref_of(sub);
    py_thread_join(thread_start(ladder, NULL));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterRef_Close(of_main);
    PyInterpreterRef_Close(of_sub);
    sub_end(sub);
    py_finalize();
    expect_log("climbed");
}

static void both_kinds(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    PyThreadState_Release();
    /* What holds is the reference of the first Ensure's own. */
    Py_BEGIN_ALLOW_THREADS
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run("x = sum(range(1000))");
    log_event("released");
    PyThreadState_Release();
}

SCENARIO(nested_in_an_ensure, "Pep788_EnsureStealing inside an Ensure with the same reference: the outer one has its own")
{
    py_init();
    pthread_t thread = thread_start(both_kinds, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("released,finalized");
}

/* --- Failure --------------------------------------------------------------------------------------- */

static void fail_from_nothing(void *ref)
{
    memory_fails = true;
    CHECK_INT(Pep788_EnsureStealing(ref), -1);
    memory_fails = false;
    CHECK_PTR(attached(), NULL);
    log_event("failed");
}

/* In 3.11 PyThreadState_New itself crashes without memory. */
// pythons: !=3.11
SCENARIO(consumes_on_failure, "Pep788_EnsureStealing: -1, and the reference is consumed all the same")
{
    let_memory_fail();
    py_init();
    py_thread_join(thread_start(fail_from_nothing, ref_here()));
    /* Would hang if the reference was still open. */
    py_finalize();
    expect_log("failed");
}

// pythons: !=3.11
SCENARIO(attaches_again_on_failure,
         "Pep788_EnsureStealing: -1 and no exception, consumed, and what was attached before is attached again")
{
    let_memory_fail();
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    memory_fails = true;
    int result = Pep788_EnsureStealing(ref);
    memory_fails = false;
    CHECK_INT(result, -1);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK(!PyErr_Occurred());
    run("x = 1");
    sub_end(sub);
    py_finalize();
}
