/* The end of an interpreter: it waits while strong references are open, and gives none afterwards. */

#define API_DRAFT
#include "harness.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;
static event finalized = EVENT_INIT;

#define RUBBISH ((PyInterpreterRef)(uintptr_t)0xBAD0)

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

/* Python code that lets the others have the GIL, time and again; nobody finalizes meanwhile. */
static void run_for_a_while(void)
{
    for (int i = 0; i < 100; i++) {
        run("x = sum(range(1000))");
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    Py_BEGIN_ALLOW_THREADS
    CHECK(!event_wait_ms(&finalized, 50));
    Py_END_ALLOW_THREADS
}

/* --- Py_FinalizeEx -------------------------------------------------------------------------------- */

static void work_through_the_exit(void *ref)
{
    event_wait(&exiting);
    for (int i = 0; i < 200; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("done += 1");
        CHECK_INT(eval_long("done"), i + 1);
        PyThreadState_Release();
    }
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

SCENARIO(finalize_waits, "A strong reference keeps Py_FinalizeEx waiting, and the thread that has it works on")
{
    py_init();
    run("done = 0");
    pthread_t thread = thread_start(work_through_the_exit, ref_here());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("worked,finalized");
}

static PyInterpreterRef handed_over;
static event handed = EVENT_INIT;

static void take_another_and_hand_over(void *ref)
{
    event_wait(&exiting);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    handed_over = ref_here();
    PyThreadState_Release();
    log_event("first closed");
    PyInterpreterRef_Close(ref);
    event_set(&handed);
}

static void finish_for_another(void *unused)
{
    (void)unused;
    event_wait(&handed);
    CHECK_INT(PyThreadState_Ensure(handed_over), 0);
    run_for_a_while();
    PyThreadState_Release();
    log_event("second closed");
    PyInterpreterRef_Close(handed_over);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(holders_take_more, "During the wait PyInterpreterRef_Get still serves a thread that is waited for, however long")
{
    py_init();
    pthread_t first = thread_start(take_another_and_hand_over, ref_here());
    pthread_t second = thread_start(finish_for_another, NULL);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(first);
    thread_join(second);
    expect_log("first closed,second closed,finalized");
}

static void use_everything(void *unused)
{
    (void)unused;
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyInterpreterRef_Main(&ref), 0);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyInterpreterState_AsStrong(PyInterpreterState_Get(), &ref), 0);
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &ref), 0);
    PyInterpreterWeakRef_Close(wref);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    PyThreadState_Release();
    log_event("used");
}

SCENARIO(everything_works_in_exit_callbacks, "References are given until the interpreter is done waiting: in an exit callback they are")
{
    py_init();
    PyInterpreterRef_Close(ref_here());
    at_exit(use_everything, NULL);
    py_finalize();
    expect_log("used");
}

/* --- Once references are no longer given ------------------------------------------------------------ */

static PyInterpreterWeakRef the_weak_ref;

static void check_nothing_given(void)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterRef_Main(&ref), -1);
    CHECK_PTR(ref, NULL);
    ref = RUBBISH;
    CHECK_INT(PyInterpreterState_AsStrong(PyInterpreterState_Main(), &ref), -1);
    CHECK_PTR(ref, NULL);
    ref = RUBBISH;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(the_weak_ref, &ref), -1);
    CHECK_PTR(ref, NULL);
}

static void refused_in_a_thread(void *unused)
{
    (void)unused;
    check_nothing_given();
    /* The interpreter is done waiting, but not finalizing yet: it can be attached to. */
    PyGILState_STATE legacy = PyGILState_Ensure();
    check_nothing_given();
    CHECK(!PyErr_Occurred());
    CHECK_PTR(PyInterpreterRef_Get(), NULL);
    check_finalization_error();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_INT(PyThreadState_SetDaemon(0), -1);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyGILState_Release(legacy);
    log_event("refused");
}

static void after_the_wait(void *unused)
{
    (void)unused;
    check_nothing_given();
    CHECK(!PyErr_Occurred());
    CHECK_PTR(PyInterpreterRef_Get(), NULL);
    check_finalization_error();
    py_thread_join(thread_start(refused_in_a_thread, NULL));
}

SCENARIO(nothing_is_given_after_the_wait,
         "Once references are no longer given: PyInterpreterRef_Get raises, _Main, _AsStrong and SetDaemon(0) are -1 "
         "without an exception")
{
    py_init();
    after_exit_callbacks(after_the_wait, NULL);
    the_weak_ref = PyInterpreterWeakRef_Get();
    CHECK(the_weak_ref != 0);
    py_finalize();
    expect_log("refused");
    PyInterpreterWeakRef_Close(the_weak_ref);
}

/* --- Py_EndInterpreter -------------------------------------------------------------------------------- */

static void end_waits(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    PyInterpreterRef ref = ref_of(sub);
    swap(own, sub);
    run("done = 0");
    at_exit(set_event, &exiting);
    swap(sub, own);
    pthread_t thread = thread_start(work_through_the_exit, ref);
    sub_end(sub);
    log_event("ended");
    event_set(&finalized);
    py_thread_join(thread);
    expect_log("worked,ended");
    py_finalize();
}

SCENARIO(end_waits_sub, "A strong reference keeps Py_EndInterpreter waiting")
{
    end_waits(sub_new);
}

// pythons: >=3.12
SCENARIO(end_waits_isolated, "A strong reference keeps Py_EndInterpreter waiting; an interpreter with a GIL of its own")
{
    end_waits(sub_new_isolated);
}

static void stay_in_a_subinterpreter(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    event_set(&inside);
    py_event_wait(&exiting);
    run_for_a_while();
    log_event("released");
    PyThreadState_Release();
}

static void thread_in_an_ensure_is_waited_for(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    pthread_t thread = thread_start(stay_in_a_subinterpreter, ref_of(sub));
    py_event_wait(&inside);
    swap(own, sub);
    at_exit(set_event, &exiting);
    swap(sub, own);
    sub_end(sub);
    log_event("ended");
    event_set(&finalized);
    py_thread_join(thread);
    expect_log("released,ended");
    py_finalize();
}

SCENARIO(end_waits_for_a_thread_in_an_ensure, "A thread inside an Ensure keeps Py_EndInterpreter waiting by itself")
{
    thread_in_an_ensure_is_waited_for(sub_new);
}

// pythons: >=3.12
SCENARIO(end_waits_for_a_thread_in_an_ensure_isolated, "The same where the interpreter has a GIL of its own")
{
    thread_in_an_ensure_is_waited_for(sub_new_isolated);
}

static void attach_and_leave(void *ref)
{
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    run("x = sum(range(1000))");
    PyThreadState_Release();
    log_event("left");
}

SCENARIO(not_the_last_thread,
         "Release deletes the thread state before it drops the reference, so that Py_EndInterpreter finds its own one alone")
{
    py_init();
    for (int round = 0; round < 50; round++) {
        PyThreadState *sub = sub_new();
        pthread_t thread = thread_start(attach_and_leave, ref_of(sub));
        /* The thread's Release races with this, which is fatal when it finds another thread state. */
        sub_end(sub);
        py_thread_join(thread);
    }
    CHECK_INT(log_count("left"), 50);
    py_finalize();
}

SCENARIO(others_do_not_hold, "A strong reference holds its own interpreter only: another one ends meanwhile")
{
    py_init();
    PyThreadState *first = sub_new();
    PyThreadState *second = sub_new();
    PyInterpreterRef of_main = ref_here();
    PyInterpreterRef of_second = ref_of(second);
    /* Would hang if it waited for either. */
    sub_end(first);
    CHECK_INT(PyThreadState_Ensure(of_second), 0);
    run("x = 1");
    PyThreadState_Release();
    PyInterpreterRef_Close(of_second);
    PyInterpreterRef_Close(of_main);
    sub_end(second);
    py_finalize();
}

// pythons: >=3.13
SCENARIO(main_waits_for_a_subinterpreters, "Py_FinalizeEx waits for the references of all interpreters")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    swap(own, sub);
    run("done = 0");
    swap(sub, own);
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(work_through_the_exit, ref);
    Py_FinalizeEx();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("worked,finalized");
}
