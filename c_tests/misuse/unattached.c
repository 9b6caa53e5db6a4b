/* What needs an attached thread state says so, also while another thread has one: up to 3.11 CPython
 * itself does not tell the two apart. */

#include "harness.h"

static event ready = EVENT_INIT;
static event held = EVENT_INIT;
static event never = EVENT_INIT;

static void guard_from_current(void *unused)
{
    (void)unused;
    PyInterpreterGuard_FromCurrent();
    _exit(0);
}

static void view_from_current(void *unused)
{
    (void)unused;
    PyInterpreterView_FromCurrent();
    _exit(0);
}

/* --- Nobody is attached -------------------------------------------------------------------------- */

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_in_the_main_thread, "PyInterpreterGuard_FromCurrent: the main thread has detached")
{
    py_init();
    PyEval_SaveThread();
    guard_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterView_FromCurrent "no attached thread state"
SCENARIO(view_in_the_main_thread, "PyInterpreterView_FromCurrent: the main thread has detached")
{
    py_init();
    PyEval_SaveThread();
    view_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_in_a_fresh_thread, "PyInterpreterGuard_FromCurrent: a thread that never was attached")
{
    py_init();
    py_thread_join(thread_start(guard_from_current, NULL));
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterView_FromCurrent "no attached thread state"
SCENARIO(view_in_a_fresh_thread, "PyInterpreterView_FromCurrent: a thread that never was attached")
{
    py_init();
    py_thread_join(thread_start(view_from_current, NULL));
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_before_python, "PyInterpreterGuard_FromCurrent: before Py_Initialize")
{
    guard_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterView_FromCurrent "no attached thread state"
SCENARIO(view_after_python, "PyInterpreterView_FromCurrent: after Py_FinalizeEx")
{
    py_init();
    PyInterpreterView_Close(PyInterpreterView_FromCurrent());
    py_finalize();
    view_from_current(NULL);
}

static void guard_after_release(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    guard_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_after_the_release, "PyInterpreterGuard_FromCurrent: a thread after its Release")
{
    py_init();
    py_thread_join(thread_start(guard_after_release, PyInterpreterGuard_FromCurrent()));
}

/* --- Another thread is attached -------------------------------------------------------------------- */

/* Runs it in a thread, while this one has the GIL and keeps it. */
static void while_attached(void (*misuse)(void *))
{
    thread_start(misuse, NULL);
    event_wait(&never);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_while_the_main_thread_is, "PyInterpreterGuard_FromCurrent: a fresh thread, while the main thread has the GIL")
{
    py_init();
    while_attached(guard_from_current);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterView_FromCurrent "no attached thread state"
SCENARIO(view_while_the_main_thread_is, "PyInterpreterView_FromCurrent: a fresh thread, while the main thread has the GIL")
{
    py_init();
    while_attached(view_from_current);
}

static void attach_and_stay(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    event_set(&held);
    event_wait(&never);
}

/* Detaches the main thread, and goes on once another one has the GIL and keeps it. */
static void let_another_attach(void (*attach)(void *), void *argument)
{
    PyEval_SaveThread();
    thread_start(attach, argument);
    event_wait(&held);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_while_a_thread_is, "PyInterpreterGuard_FromCurrent: the main thread has detached, and another one has the GIL")
{
    py_init();
    let_another_attach(attach_and_stay, PyInterpreterGuard_FromCurrent());
    guard_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterView_FromCurrent "no attached thread state"
SCENARIO(view_while_a_thread_is, "PyInterpreterView_FromCurrent: the main thread has detached, and another one has the GIL")
{
    py_init();
    let_another_attach(attach_and_stay, PyInterpreterGuard_FromCurrent());
    view_from_current(NULL);
}

static void keep_the_gil(void)
{
    event_set(&held);
    event_wait(&never);
}

static void run_python_and_stay(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("keep_the_gil()");
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_while_a_thread_runs_python, "PyInterpreterGuard_FromCurrent: the main thread has detached, and another one runs Python code")
{
    py_init();
    expose("keep_the_gil", keep_the_gil);
    let_another_attach(run_python_and_stay, PyInterpreterGuard_FromCurrent());
    guard_from_current(NULL);
}

static void guard_after_detaching(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyEval_SaveThread();
    event_set(&ready);
    event_wait(&held);
    guard_from_current(NULL);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_inside_an_ensure, "PyInterpreterGuard_FromCurrent: a thread that has detached inside its Ensure, while another one has the GIL")
{
    py_init();
    thread_start(guard_after_detaching, PyInterpreterGuard_FromCurrent());
    py_event_wait(&ready);
    event_set(&held);
    event_wait(&never);
}

/* --- Another thread is attached with a thread state that this one made ------------------------------ */

/* As embedding programs did before PyGILState: the main thread makes the thread states of its
 * workers. */
static void attach_what_was_given(void *state)
{
    PyEval_RestoreThread(state);
    event_set(&held);
    event_wait(&never);
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
SCENARIO(guard_while_a_worker_is,
         "PyInterpreterGuard_FromCurrent: the main thread has detached, and a worker has the GIL with a "
         "thread state that the main thread made for it")
{
    py_init();
    let_another_attach(attach_what_was_given, PyThreadState_New(PyInterpreterState_Get()));
    guard_from_current(NULL);
}

static void attach_what_was_given_and_run_python(void *state)
{
    PyEval_RestoreThread(state);
    run("keep_the_gil()");
}

// alone: no, it says it in other words
// expect: fatal PyInterpreterGuard_FromCurrent "no attached thread state"
// pythons: release
SCENARIO(guard_while_a_worker_runs_python,
         "PyInterpreterGuard_FromCurrent: the main thread has detached, and a worker runs Python code with a "
         "thread state that the main thread made for it")
{
    py_init();
    expose("keep_the_gil", keep_the_gil);
    let_another_attach(attach_what_was_given_and_run_python, PyThreadState_New(PyInterpreterState_Get()));
    guard_from_current(NULL);
}

/* --- No misuse, for comparison ------------------------------------------------------------------------ */

static event came_through = EVENT_INIT;

static void attach_for_a_while(void *state)
{
    PyEval_RestoreThread(state);
    event_set(&held);
    /* Nobody can attach as long as this thread has the GIL. */
    CHECK(!event_wait_ms(&came_through, 200));
    log_event("detached");
    PyEval_SaveThread();
}

// pythons: gil
SCENARIO(ensure_while_a_worker_is,
         "Ensure waits for the GIL that a worker has with a thread state that this thread made for it")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    PyThreadState *own = PyThreadState_Get();
    let_another_attach(attach_for_a_while, PyThreadState_New(PyInterpreterState_Get()));
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    event_set(&came_through);
    CHECK(token != NULL);
    log_event("attached");
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(token);
    expect_log("detached,attached");
}
