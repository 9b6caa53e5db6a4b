/* Daemon-ness of thread states: whether the attached one keeps its interpreter from finalizing. */

#define API_DRAFT
#include "harness.h"

#include <stdatomic.h>

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

/* For longer than an exit takes that does not wait, there is none. Called with nothing attached. */
static void check_not_finalized(void)
{
    CHECK(!event_wait_ms(&finalized, 50));
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
    check_not_finalized();
    Py_END_ALLOW_THREADS
}

/* Tells that this thread has what it needs, and waits with nothing attached until the exit waits. */
static void wait_for_the_exit(void)
{
    Py_BEGIN_ALLOW_THREADS
    event_set(&inside);
    event_wait(&exiting);
    check_not_finalized();
    Py_END_ALLOW_THREADS
}

/* That the exit waits for what `body` holds, which gets a reference to close, sets `inside` when it
 * has what it needs, waits for `exiting`, and notes "let go" before it gives that up. */
static void check_exit_waits(void (*body)(void *))
{
    py_init();
    pthread_t thread = thread_start(body, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("let go,finalized");
}

/* That the exit does not wait for `body`, which is attached in some way when it sets `inside`,
 * waits for `finalized` with nothing attached, and ends without coming back. */
static void check_exit_does_not_wait(void (*body)(void *))
{
    py_init();
    pthread_t thread = thread_start(body, ref_here());
    py_event_wait(&inside);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("finalized,left");
}

/* Leaves Python for good while the interpreter finalizes. */
static void leave(void)
{
    PyEval_SaveThread();
    event_set(&inside);
    event_wait(&finalized);
    log_event("left");
}

/* --- Inside an Ensure ------------------------------------------------------------------------------ */

static void non_daemon_inside(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    log_event("checked");
}

SCENARIO(non_daemon_inside_an_ensure, "Inside a draft Ensure..Release PyThreadState_GetDaemon is 0, whoever closed what")
{
    py_init();
    py_thread_join(thread_start(non_daemon_inside, ref_here()));
    py_finalize();
    expect_log("checked");
}

static void legacy_is_daemon(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyGILState_Release(legacy);

    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(state);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
    log_event("checked");
}

SCENARIO(legacy_is_a_daemon, "PyThreadState_GetDaemon: 1 in a foreign thread attached by legacy means; the first use of the API")
{
    py_init();
    py_thread_join(thread_start(legacy_is_daemon, NULL));
    py_finalize();
    expect_log("checked");
}

SCENARIO(get_leaves_an_exception, "PyThreadState_GetDaemon, PyThreadState_SetDaemon leave an exception alone")
{
    py_init();
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    CHECK_INT(PyThreadState_SetDaemon(0), -1);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    py_finalize();
}

static void with_an_exception(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyErr_Clear();
    PyGILState_Release(legacy);
    log_event("checked");
}

SCENARIO(set_leaves_an_exception, "PyThreadState_SetDaemon: the same where it succeeds")
{
    py_init();
    run("import threading");
    py_thread_join(thread_start(with_an_exception, NULL));
    py_finalize();
    expect_log("checked");
}

static void any_true_value(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(2), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(-1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyGILState_Release(legacy);
    log_event("checked");
}

SCENARIO(any_value_but_zero_is_daemon, "PyThreadState_SetDaemon: any value but 0 makes it a daemon; PyThreadState_GetDaemon says 1")
{
    py_init();
    py_thread_join(thread_start(any_true_value, NULL));
    py_finalize();
    expect_log("checked");
}

/* --- Release restores what it was before -------------------------------------------------------------- */

/* Whether the inner Ensure reuses what is attached, or attaches it again. */
static const bool detach_first[2] = {false, true};

/* Around the call the thread state is attached and as daemon-ish as `before`; an Ensure inside, and
 * whatever is set in it, changes nothing of that. */
static void check_restored(PyInterpreterRef ref, int before)
{
    static const int settings[][3] = {{-1}, {0, -1}, {1, -1}, {1, 0, -1}, {0, 1, -1}};
    PyThreadState *own = PyThreadState_Get();
    for (int way = 0; way < 2; way++) {
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
            CHECK_INT(PyThreadState_GetDaemon(), before);
            if (detach_first[way]) {
                PyEval_SaveThread();
            }
            CHECK_INT(PyThreadState_Ensure(ref), 0);
            CHECK_PTR(PyThreadState_Get(), own);
            CHECK_INT(PyThreadState_GetDaemon(), 0);
            for (const int *set = settings[i]; *set >= 0; set++) {
                CHECK_INT(PyThreadState_SetDaemon(*set), 0);
                CHECK_INT(PyThreadState_GetDaemon(), *set);
            }
            PyThreadState_Release();
            if (detach_first[way]) {
                CHECK_PTR(attached(), NULL);
                PyEval_RestoreThread(own);
            }
            if (PyThreadState_GetDaemon() != before) {
                check_failed(__FILE__, __LINE__, "GetDaemon() was %d before Ensure, %s, SetDaemon #%d, Release; and is %d",
                             before, detach_first[way] ? "detached" : "attached", (int)i,
                             PyThreadState_GetDaemon());
            }
        }
    }
}

static void restored_to_daemon(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    check_restored(ref, 1);
    PyGILState_Release(legacy);
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(release_restores_daemon, "Release restores what it was before: a daemon, from legacy means")
{
    py_init();
    py_thread_join(thread_start(restored_to_daemon, ref_here()));
    py_finalize();
    expect_log("checked");
}

static void restored_to_non_daemon(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    check_restored(ref, 0);
    PyGILState_Release(legacy);
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(release_restores_non_daemon, "Release restores what it was before: a non-daemon through PyThreadState_SetDaemon(0)")
{
    py_init();
    py_thread_join(thread_start(restored_to_non_daemon, ref_here()));
    py_finalize();
    expect_log("checked");
}

static void restored_to_an_outer_ensure(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    check_restored(ref, 0);
    /* And a daemon through SetDaemon(1) in the outer Ensure. */
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    check_restored(ref, 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    check_restored(ref, 0);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(release_restores_an_outer_ensure, "SetDaemon inside an Ensure is undone by its Release: what an outer Ensure was is restored")
{
    py_init();
    py_thread_join(thread_start(restored_to_an_outer_ensure, ref_here()));
    py_finalize();
    expect_log("checked");
}

static void restored_through_levels(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(release_restores_each_level, "Nested: every Release restores what its own level found")
{
    py_init();
    py_thread_join(thread_start(restored_through_levels, ref_here()));
    py_finalize();
    expect_log("checked");
}

static void daemon_then_a_new_one(void *ref)
{
    for (int i = 0; i < 3; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        CHECK_INT(PyThreadState_GetDaemon(), 0);
        CHECK_INT(PyThreadState_SetDaemon(1), 0);
        CHECK_INT(PyThreadState_GetDaemon(), 1);
        PyThreadState_Release();
    }
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(each_ensure_begins_anew, "SetDaemon inside an Ensure does not reach beyond its Release, where that deletes the thread state")
{
    py_init();
    py_thread_join(thread_start(daemon_then_a_new_one, ref_here()));
    py_finalize();
    expect_log("checked");
}

/* --- SetDaemon(1) lets the interpreter go ---------------------------------------------------------------- */

static void daemon_in_an_ensure(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    leave();
}

SCENARIO(set_1_lets_the_exit_go_on, "SetDaemon(1) drops the reference of the Ensure: the interpreter finalizes under the thread")
{
    check_exit_does_not_wait(daemon_in_an_ensure);
}

static void daemon_in_nested_ensures(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    leave();
}

SCENARIO(set_1_in_nested_ensures, "SetDaemon(1) in nested Ensures of one thread state drops what each of them holds")
{
    check_exit_does_not_wait(daemon_in_nested_ensures);
}

static void daemon_after_non_daemon(void *ref)
{
    PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    leave();
}

SCENARIO(set_1_undoes_set_0, "SetDaemon(1) drops also what SetDaemon(0) took, around an Ensure")
{
    check_exit_does_not_wait(daemon_after_non_daemon);
}

static void legacy_daemon(void *ref)
{
    PyGILState_Ensure();
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    leave();
}

SCENARIO(legacy_thread_is_not_waited_for, "A daemon thread state holds nothing: after SetDaemon(0) and SetDaemon(1) on a legacy one")
{
    check_exit_does_not_wait(legacy_daemon);
}

static void the_callers_stays(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    wait_for_the_exit();
    run_for_a_while();
    PyThreadState_Release();
    log_event("let go");
    PyInterpreterRef_Close(ref);
}

SCENARIO(set_1_leaves_the_callers_reference, "SetDaemon(1) drops the reference of the Ensure's own; the caller's still holds")
{
    check_exit_waits(the_callers_stays);
}

static void non_daemon_again(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    PyInterpreterRef_Close(ref);
    wait_for_the_exit();
    run_for_a_while();
    log_event("let go");
    PyThreadState_Release();
}

SCENARIO(set_0_after_set_1_holds_again, "SetDaemon(0) inside an Ensure takes a reference again, until the Release")
{
    check_exit_waits(non_daemon_again);
}

static void inner_daemon_attached(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    wait_for_the_exit();
    run_for_a_while();
    log_event("let go");
    PyThreadState_Release();
}

SCENARIO(the_outer_ensure_holds_again, "SetDaemon(1) is undone by Release: the outer Ensure holds the interpreter again")
{
    check_exit_waits(inner_daemon_attached);
}

static void inner_daemon_reattached(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    event_set(&inside);
    event_wait(&exiting);
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run_for_a_while();
    log_event("let go");
    PyThreadState_Release();
}

SCENARIO(the_outer_ensure_holds_again_where_the_inner_one_attached,
         "The same where the inner Ensure attached the outer one's thread state again, and its Release detached it")
{
    check_exit_waits(inner_daemon_reattached);
}

static void inner_daemon_in_a_kept_state(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyThreadState_Release();
    event_set(&inside);
    event_wait(&exiting);
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run_for_a_while();
    log_event("let go");
    PyGILState_Release(legacy);
}

SCENARIO(the_thread_state_holds_again_where_the_inner_one_attached,
         "The same where SetDaemon(0) made a legacy thread state non-daemon before")
{
    check_exit_waits(inner_daemon_in_a_kept_state);
}

/* --- SetDaemon(0) holds until the thread state is gone --------------------------------------------------- */

static void legacy_non_daemon(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    wait_for_the_exit();
    run_for_a_while();
    /* An inner pair deletes nothing. */
    PyGILState_STATE inner = PyGILState_Ensure();
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyGILState_Release(inner);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    run_for_a_while();
    log_event("let go");
    PyGILState_Release(legacy);
}

SCENARIO(held_until_gilstate_release, "SetDaemon(0) on a thread state of PyGILState_Ensure: held until PyGILState_Release deletes it")
{
    check_exit_waits(legacy_non_daemon);
}

static void own_non_daemon(void *ref)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(state);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyInterpreterRef_Close(ref);
    wait_for_the_exit();
    run_for_a_while();
    log_event("let go");
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

SCENARIO(held_until_deleted, "SetDaemon(0) on a thread state of PyThreadState_New: held until it is cleared and deleted")
{
    check_exit_waits(own_non_daemon);
}

static void clear_it(void *state)
{
    event_wait(&exiting);
    PyThreadState *own = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(own);
    run_for_a_while();
    log_event("let go");
    PyThreadState_Clear(state);
    PyThreadState_Delete(state);
    /* Nothing holds the interpreter any more, so this must not give the GIL up before it is done. */
    PyThreadState_Clear(own);
    PyThreadState_DeleteCurrent();
}

static void cleared_by_another(void *ref)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(state);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    PyInterpreterRef_Close(ref);
    PyEval_SaveThread();
    event_set(&inside);
    thread_join(thread_start(clear_it, state));
}

/* A debug build allows a thread to clear its own only. */
// pythons: release
SCENARIO(held_until_cleared_by_another_thread, "SetDaemon(0): held until cleared, also where another thread does that")
{
    check_exit_waits(cleared_by_another);
}

static void taken_once(void *ref)
{
    for (int i = 0; i < 3; i++) {
        PyGILState_STATE legacy = PyGILState_Ensure();
        CHECK_INT(PyThreadState_GetDaemon(), 1);
        CHECK_INT(PyThreadState_SetDaemon(0), 0);
        CHECK_INT(PyThreadState_SetDaemon(0), 0);
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        CHECK_INT(PyThreadState_SetDaemon(0), 0);
        PyThreadState_Release();
        CHECK_INT(PyThreadState_SetDaemon(0), 0);
        PyGILState_Release(legacy);
    }
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(set_twice_holds_once, "SetDaemon(0) again changes nothing: with the thread state everything is given back")
{
    py_init();
    py_thread_join(thread_start(taken_once, ref_here()));
    CHECK_INT(count_thread_states(), 1);
    /* Would hang if anything was left. */
    py_finalize();
    expect_log("checked");
}

static void first_use(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    wait_for_the_exit();
    run_for_a_while();
    log_event("let go");
    PyGILState_Release(legacy);
}

SCENARIO(set_0_is_the_first_use, "SetDaemon(0) holds also where it is the first use of the API at all")
{
    py_init();
    pthread_t thread = thread_start(first_use, NULL);
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("let go,finalized");
}

static void take_more_as_a_non_daemon(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    PyInterpreterRef_Close(ref);
    event_set(&inside);
    py_event_wait(&exiting);
    /* The wait is under way, and without a grace only holders are served. */
    run_for_a_while();
    PyInterpreterRef_Close(ref_here());
    log_event("let go");
    PyGILState_Release(legacy);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(a_non_daemon_may_take_more, "A non-daemon thread state holds a strong reference: PyInterpreterRef_Get serves it as long as the exit waits for it")
{
    check_exit_waits(take_more_as_a_non_daemon);
}

/* --- Where it is refused ------------------------------------------------------------------------------------ */

static void check_refused(void)
{
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_SetDaemon(1), -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_GetDaemon(), 0);
}

SCENARIO(refused_on_the_main_thread, "SetDaemon fails with -1 and no exception on the main thread, either way; GetDaemon is 0 there")
{
    py_init();
    check_refused();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    check_refused();
    PyThreadState_Release();
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    check_refused();
    PyThreadState_Release();
    Py_END_ALLOW_THREADS
    run("import threading");
    check_refused();
    PyInterpreterRef_Close(ref);
    py_finalize();
}

SCENARIO(refused_on_a_subinterpreters_main_thread, "The same on the main thread of a subinterpreter")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    check_refused();
    run("import threading");
    check_refused();
    swap(sub, own);
    sub_end(sub);
    check_refused();
    py_finalize();
}

static PyInterpreterState *interpreter;
static atomic_bool done;

static void make_and_delete(void *unused)
{
    (void)unused;
    while (!atomic_load(&done)) {
        PyThreadState *state = PyThreadState_New(interpreter);
        PyEval_RestoreThread(state);
        PyThreadState_Clear(state);
        PyThreadState_DeleteCurrent();
    }
}

static void ask(void *unused)
{
    (void)unused;
    PyThreadState *state = PyThreadState_New(interpreter);
    PyEval_RestoreThread(state);
    for (int i = 0; i < 100000; i++) {
        CHECK_INT(PyThreadState_GetDaemon(), 1);
        CHECK_INT(PyThreadState_SetDaemon(1), 0);
        if (i % 100 == 99) {
            Py_BEGIN_ALLOW_THREADS
            sched_yield();
            Py_END_ALLOW_THREADS
        }
    }
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
    atomic_store(&done, true);
}

/* Freed memory is overwritten. */
// env: MALLOC_PERTURB_=165
SCENARIO(asked_while_others_come_and_go,
         "GetDaemon and SetDaemon on a subinterpreter's thread while thread states of others come and go")
{
    py_init();
    PyThreadState *sub = sub_new();
    interpreter = PyThreadState_GetInterpreter(sub);
    pthread_t threads[] = {thread_start(make_and_delete, NULL), thread_start(make_and_delete, NULL),
                           thread_start(make_and_delete, NULL), thread_start(ask, NULL)};
    for (int i = 0; i < 4; i++) {
        py_thread_join(threads[i]);
    }
    sub_end(sub);
    py_finalize();
}

/* --- In subinterpreters -------------------------------------------------------------------------------------- */

static void in_a_subinterpreter(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK(attached_interpreter() != PyInterpreterState_Main());
    check_restored(ref, 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    check_restored(ref, 1);
    PyThreadState_Release();

    PyThreadState *state = PyThreadState_New(PyInterpreterRef_AsInterpreter(ref));
    PyEval_RestoreThread(state);
    check_restored(ref, 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    check_restored(ref, 0);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

static void restored_in(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *sub = new_interpreter();
    py_thread_join(thread_start(in_a_subinterpreter, ref_of(sub)));
    sub_end(sub);
    py_finalize();
    expect_log("checked");
}

SCENARIO(restored_in_a_subinterpreter, "Release restores what it was before: in a subinterpreter")
{
    restored_in(sub_new);
}

// pythons: >=3.12
SCENARIO(restored_in_an_isolated_one, "Release restores what it was before: in a subinterpreter with a GIL of its own")
{
    restored_in(sub_new_isolated);
}

static PyInterpreterRef of_main;

static void each_interpreter_its_own(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(of_main), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_Ensure(of_main), 0);
    /* Another thread state of main, with a level of its own. */
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    log_event("checked");
}

SCENARIO(each_thread_state_its_own, "Daemon-ness is of the attached thread state, not of the thread")
{
    py_init();
    PyThreadState *sub = sub_new();
    of_main = ref_here();
    py_thread_join(thread_start(each_interpreter_its_own, ref_of(sub)));
    PyInterpreterRef_Close(of_main);
    sub_end(sub);
    py_finalize();
    expect_log("checked");
}

static void non_daemon_in_a_subinterpreter(void *ref)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterRef_AsInterpreter(ref));
    PyEval_RestoreThread(state);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyInterpreterRef_Close(ref);
    wait_for_the_exit();
    run_for_a_while();
    log_event("let go");
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

static void end_waits(PyThreadState *(*new_interpreter)(void), int rounds)
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    for (int round = 0; round < rounds; round++) {
        inside.happened = exiting.happened = finalized.happened = false;
        PyThreadState *sub = new_interpreter();
        pthread_t thread = thread_start(non_daemon_in_a_subinterpreter, ref_of(sub));
        py_event_wait(&inside);
        swap(own, sub);
        at_exit(set_event, &exiting);
        swap(sub, own);
        /* Would be a fatal error with the thread state still there. */
        sub_end(sub);
        log_event("ended");
        event_set(&finalized);
        py_thread_join(thread);
    }
    py_finalize();
}

SCENARIO(end_waits_for_a_non_daemon, "SetDaemon(0) in a subinterpreter: Py_EndInterpreter waits until the thread state is gone")
{
    end_waits(sub_new, 3);
    expect_log("let go,ended,let go,ended,let go,ended");
}

// pythons: >=3.12
SCENARIO(end_of_an_isolated_one_waits_for_a_non_daemon, "The same where the subinterpreter has a GIL of its own")
{
    end_waits(sub_new_isolated, 3);
    expect_log("let go,ended,let go,ended,let go,ended");
}

// repeat: 3
SCENARIO(not_the_last_thread, "A thread state that gives its reference up as it is cleared is deleted before Py_EndInterpreter looks")
{
    end_waits(sub_new, 20);
    CHECK_INT(log_count("let go"), 20);
    CHECK_INT(log_count("ended"), 20);
}

static atomic_bool all_over;

static void come_and_go(void *ref)
{
    while (!all_over) {
        PyGILState_STATE state = PyGILState_Ensure();
        CHECK_INT(PyThreadState_SetDaemon(0), 0);
        event_set(&inside);
        PyGILState_Release(state);
    }
    PyInterpreterRef_Close(ref);
}

SCENARIO(end_does_not_wait_for_those_of_others, "Py_EndInterpreter does not wait while thread states of another interpreter come and go that SetDaemon(0) was called on")
{
    py_init();
    pthread_t thread = thread_start(come_and_go, ref_here());
    py_event_wait(&inside);
    for (int i = 0; i < 3; i++) {
        PyThreadState *sub = sub_new();
        PyInterpreterRef_Close(ref_of(sub));
        sub_end(sub);
    }
    all_over = true;
    py_thread_join(thread);
    py_finalize();
}

static void daemon_in_a_subinterpreter(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    log_event("released");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
}

static pthread_t the_thread;

static void after_the_wait(void *unused)
{
    (void)unused;
    log_event("waited");
    event_set(&exiting);
    py_thread_join(the_thread);
}

static void end_does_not_wait(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    swap(own, sub);
    /* Lets the thread go, as CPython wants no thread states in an interpreter that ends. */
    after_exit_callbacks(after_the_wait, NULL);
    swap(sub, own);
    the_thread = thread_start(daemon_in_a_subinterpreter, ref_of(sub));
    py_event_wait(&inside);
    sub_end(sub);
    log_event("ended");
    expect_log("waited,released,ended");
    py_finalize();
}

SCENARIO(end_does_not_wait_for_a_daemon, "SetDaemon(1) in a subinterpreter: Py_EndInterpreter does not wait for the Ensure")
{
    end_does_not_wait(sub_new);
}

// pythons: >=3.12
SCENARIO(end_of_an_isolated_one_does_not_wait_for_a_daemon, "The same where the subinterpreter has a GIL of its own")
{
    end_does_not_wait(sub_new_isolated);
}

static void inner_daemon_released_late(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    CHECK_INT(PyThreadState_SetDaemon(0), -1);
    CHECK(!PyErr_Occurred());
    PyThreadState_Release();
    /* There is no reference to be had any more. */
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    log_event("released");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(restored_too_late, "Once references are no longer given SetDaemon(0) is -1 also in an Ensure, and Release cannot restore one")
{
    py_init();
    after_exit_callbacks(after_the_wait, NULL);
    the_thread = thread_start(inner_daemon_released_late, ref_here());
    py_event_wait(&inside);
    py_finalize();
    log_event("finalized");
    expect_log("waited,released,finalized");
}

/* --- Python code in between -------------------------------------------------------------------------- */

static PyInterpreterRef own_ref;

/* So deep that the stack of Ensures moves. */
static void nest_deeply(void)
{
    for (int i = 0; i < 100; i++) {
        CHECK_INT(PyThreadState_Ensure(own_ref), 0);
    }
    for (int i = 0; i < 100; i++) {
        PyThreadState_Release();
    }
}

static void let_go_and_release(void)
{
    CHECK_INT(PyThreadState_Ensure(own_ref), 0);
    CHECK_INT(PyThreadState_Ensure(own_ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    run("armed = True");
    /* Gives the outer one its hold back; who traces that asks for the thread's name. */
    PyThreadState_Release();
    CHECK_INT(eval_long("names"), 1);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
}

// env: PEP788_TRACE=1
SCENARIO(a_name_that_ensures, "PyThreadState_SetDaemon: what is taken is given back though tracing runs Python code that ensures")
{
    py_init();
    own_ref = ref_here();
    expose("nest_deeply", nest_deeply);
    expose("let_go_and_release", let_go_and_release);
    run("import threading\n"
        "armed, names = False, 0\n"
        "class Thread(threading.Thread):\n"
        "    @property\n"
        "    def _name(self):\n"
        "        global armed, names\n"
        "        if armed:\n"
        "            armed = False\n"
        "            names += 1\n"
        "            nest_deeply()\n"
        "            junk = [bytes(n) for n in range(100, 9000, 8)]\n"
        "        return 'named'\n"
        "    @_name.setter\n"
        "    def _name(self, name):\n"
        "        pass\n"
        "thread = Thread(target=let_go_and_release, daemon=True)\n"
        "thread.start()\n"
        "thread.join()\n");
    PyInterpreterRef_Close(own_ref);
    py_finalize();
}
