/* Ensure and Release: what they return, whose references they hold, and what they leave alone. */

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

/* --- From where ------------------------------------------------------------------------------- */

static void from_nothing(void *ref)
{
    CHECK_PTR(attached(), NULL);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    CHECK_INT(PyGILState_Check(), 1);
    CHECK_INT(count_thread_states(), 2);
    run("done += 1");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(from_a_native_thread, "PyThreadState_Ensure: 0, attached; PyThreadState_Release undoes it, and leaves nothing")
{
    py_init();
    run("done = 0");
    PyInterpreterRef ref = ref_here();
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(from_nothing, ref));
        CHECK_INT(count_thread_states(), 1);
    }
    CHECK_INT(eval_long("done"), 3);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

SCENARIO(from_the_main_thread, "PyThreadState_Ensure: the caller is attached, or it is not")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    PyThreadState *own = PyThreadState_Get();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release();
    CHECK_PTR(PyThreadState_Get(), own);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

SCENARIO(an_exception_stays, "PyThreadState_Ensure, PyThreadState_Release leave an exception alone")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_here();
    PyInterpreterRef other = ref_of(sub);
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    CHECK_INT(PyThreadState_Ensure(other), 0);
    CHECK(!PyErr_Occurred());
    run("x = 1");
    PyThreadState_Release();
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyThreadState_Release();
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterRef_Close(ref);
    PyInterpreterRef_Close(other);
    sub_end(sub);
    py_finalize();
}

static void deep(PyInterpreterRef ref, PyThreadState *same, int depth)
{
    if (depth == 0) {
        return;
    }
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(PyThreadState_Get(), same);
    if (depth % 5 == 0) {
        /* Every fifth level detaches, so that the next one has to attach again. */
        Py_BEGIN_ALLOW_THREADS
        deep(ref, same, depth - 1);
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
    } else {
        deep(ref, same, depth - 1);
    }
    CHECK_PTR(PyThreadState_Get(), same);
    PyThreadState_Release();
}

static void deep_in_a_thread(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    deep(ref, PyThreadState_Get(), 200);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(deep_nesting, "PyThreadState_Release undoes this thread's most recent Ensure, at any depth")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    deep(ref, PyThreadState_Get(), 200);
    py_thread_join(thread_start(deep_in_a_thread, ref));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

static event first_is_in = EVENT_INIT;
static event second_is_out = EVENT_INIT;

static void first_in_first_out(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyThreadState *state = PyThreadState_Get();
    event_set(&first_is_in);
    py_event_wait(&second_is_out);
    CHECK_PTR(PyThreadState_Get(), state);
    run("x = 1");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
}

static void second_in_first_out(void *ref)
{
    event_wait(&first_is_in);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    run("x = 2");
    PyThreadState_Release();
    CHECK_PTR(attached(), NULL);
    event_set(&second_is_out);
}

SCENARIO(each_thread_has_its_own, "PyThreadState_Release undoes the Ensure of the calling thread, whatever others do")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    pthread_t first = thread_start(first_in_first_out, ref);
    pthread_t second = thread_start(second_in_first_out, ref);
    py_thread_join(first);
    py_thread_join(second);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

static void leave_a_local(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    run("local.value = Farewell()");
    CHECK_INT(eval_long("gone"), 0);
    PyThreadState_Release();
}

SCENARIO(release_clears_what_it_deletes, "PyThreadState_Release clears a thread state that Ensure made: what is local to the thread is freed")
{
    py_init();
    run("import threading\n"
        "gone = 0\n"
        "class Farewell:\n"
        "    def __del__(self):\n"
        "        global gone\n"
        "        gone += 1\n"
        "local = threading.local()");
    PyInterpreterRef ref = ref_here();
    py_thread_join(thread_start(leave_a_local, ref));
    CHECK_INT(eval_long("gone"), 1);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

/* --- It does not steal --------------------------------------------------------------------------- */

/* For longer than an exit takes that does not wait, there is none. Called with nothing attached. */
static void check_not_finalized(void)
{
    CHECK(!event_wait_ms(&finalized, 50));
}

static void ensure_many_times(void *ref)
{
    for (int i = 0; i < 100; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("x = 1");
        PyThreadState_Release();
    }
}

static void use_then_close(void *ref)
{
    event_wait(&exiting);
    ensure_many_times(ref);
    check_not_finalized();
    ensure_many_times(ref);
    log_event("closed");
    PyInterpreterRef_Close(ref);
}

SCENARIO(the_callers_reference_stays_the_callers,
         "Ensure does not steal: after its Release the caller's reference still holds, and the caller closes it")
{
    py_init();
    pthread_t thread = thread_start(use_then_close, ref_here());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("closed,finalized");
}

static void release_first(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    log_event("released");
    PyThreadState_Release();
    check_not_finalized();
    log_event("closed");
    PyInterpreterRef_Close(ref);
}

SCENARIO(waits_for_both, "The interpreter waits for the Ensure's reference and for the caller's: Release comes first")
{
    py_init();
    pthread_t thread = thread_start(release_first, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("released,closed,finalized");
}

static void close_first(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    event_set(&inside);
    Py_BEGIN_ALLOW_THREADS
    event_wait(&exiting);
    log_event("closed");
    PyInterpreterRef_Close(ref);
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run("x = sum(range(1000))");
    log_event("released");
    PyThreadState_Release();
}

SCENARIO(holds_by_itself, "The interpreter waits for both: Ensure's own reference holds after the caller closed its one")
{
    py_init();
    pthread_t thread = thread_start(close_first, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("closed,released,finalized");
}

static void each_level_holds(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    event_set(&inside);
    py_event_wait(&exiting);
    PyThreadState_Release();
    PyThreadState_Release();
    Py_BEGIN_ALLOW_THREADS
    check_not_finalized();
    Py_END_ALLOW_THREADS
    run("x = sum(range(1000))");
    log_event("released");
    PyThreadState_Release();
}

SCENARIO(holds_until_the_outermost_release, "Nested Ensures hold one reference each: the outermost Release is the last")
{
    py_init();
    pthread_t thread = thread_start(each_level_holds, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("released,finalized");
}

static void linger(void)
{
    Py_BEGIN_ALLOW_THREADS
    event_set(&inside);
    event_wait(&exiting);
    check_not_finalized();
    Py_END_ALLOW_THREADS
    log_event("destroyed");
}

static void leave_what_lingers(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    run("local.value = Farewell()");
    PyThreadState_Release();
}

SCENARIO(holds_while_its_thread_state_is_cleared,
         "Release drops the Ensure's reference last: destructors that run when the thread state is cleared are still "
         "waited for, also when they give up the GIL")
{
    py_init();
    expose("linger", linger);
    run("import threading\n"
        "class Farewell:\n"
        "    def __del__(self):\n"
        "        linger()\n"
        "local = threading.local()");
    pthread_t thread = thread_start(leave_what_lingers, ref_here());
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("destroyed,finalized");
}

/* --- Where it fails --------------------------------------------------------------------------------- */

static int ensure_without_memory(PyInterpreterRef ref)
{
    memory_fails = true;
    int result = PyThreadState_Ensure(ref);
    memory_fails = false;
    return result;
}

static void fail_from_nothing(void *ref)
{
    CHECK_INT(ensure_without_memory(ref), -1);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    run("x = 1");
    PyThreadState_Release();
    log_event("checked");
}

/* In 3.11 PyThreadState_New itself crashes without memory. */
// pythons: !=3.11
SCENARIO(fails_from_nothing, "PyThreadState_Ensure: -1 without memory, nothing attached, and nothing held")
{
    let_memory_fail();
    py_init();
    PyInterpreterRef ref = ref_here();
    py_thread_join(thread_start(fail_from_nothing, ref));
    CHECK_INT(count_thread_states(), 1);
    /* The caller's is still the caller's to close; would hang if another one was left. */
    PyInterpreterRef_Close(ref);
    py_finalize();
    expect_log("checked");
}

// pythons: !=3.11
SCENARIO(fails_and_attaches_again, "PyThreadState_Ensure: -1 and no exception; what was attached before is attached again")
{
    let_memory_fail();
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    CHECK_INT(ensure_without_memory(ref), -1);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK(!PyErr_Occurred());
    run("x = 1");
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_INT(ensure_without_memory(ref), -1);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    py_finalize();
}
