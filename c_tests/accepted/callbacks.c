/* What the API was made for: native libraries that call back into Python. */

#include "harness.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;

/* --- A logging library, called by whoever ---------------------------------------------------------- */

/* The library's part: called by any thread, attached or not, it logs through Python's `logging`, or
 * says that it cannot. */
static PyInterpreterView *log_view;

static bool log_text(const char *text)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(log_view);
    if (token == NULL) {
        return false;
    }
    PyObject *logging = PyImport_ImportModule("logging");
    CHECK(logging != NULL);
    PyObject *result = PyObject_CallMethod(logging, "warning", "s", text);
    CHECK(result != NULL);
    Py_DECREF(result);
    Py_DECREF(logging);
    PyThreadState_Release(token);
    return true;
}

static void callback_that_logs(void *guard)
{
    event_wait(&exiting);
    CHECK(log_text("detached"));
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyThreadState *own = PyThreadState_Get();
    CHECK(log_text("attached"));
    CHECK_PTR(PyThreadState_Get(), own);
    Py_BEGIN_ALLOW_THREADS
    CHECK(log_text("detached inside"));
    Py_END_ALLOW_THREADS
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
}

// env: PEP788_DRAIN_GRACE_MS=-1
// expect: stderr "WARNING:root:attached"
// expect: stderr "WARNING:root:detached inside"
SCENARIO(logging_from_a_callback, "A library that logs need not know whether its caller is attached, and tells when it is too late")
{
    py_init();
    run("import logging; logging.basicConfig()");
    log_view = PyInterpreterView_FromCurrent();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(log_view != NULL && guard != NULL);
    CHECK(log_text("from the main thread"));
    pthread_t thread = thread_start(callback_that_logs, guard);
    at_exit(set_event, &exiting);
    py_finalize();
    thread_join(thread);
    CHECK(!log_text("too late"));
    PyInterpreterView_Close(log_view);
}

/* --- A lock held while the interpreter exits -------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Called by a daemon thread. Without the guard, taking the GIL back would hang the thread
 * (or end it), with the lock held. */
static void work_under_the_lock(void)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    at_exit(set_event, &exiting);
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    Py_BEGIN_ALLOW_THREADS
    event_set(&inside);
    event_wait(&exiting);
    Py_END_ALLOW_THREADS
    run("x = sum(range(1000))");
    CHECK_INT(pthread_mutex_unlock(&lock), 0);
    log_event("unlocked");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(lock_held_by_a_daemon_thread, "A daemon thread with a guard comes back with the GIL while the interpreter exits, and gives its lock free")
{
    py_init();
    expose("work", work_under_the_lock);
    run("import threading\n"
        "threading.Thread(target=work, daemon=True).start()");
    py_event_wait(&inside);
    py_finalize();
    log_event("finalized");
    /* Would hang if the thread had been hung. */
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    expect_log("unlocked,finalized");
}

/* --- A callback that may never come ------------------------------------------------------------------- */

struct request {
    PyInterpreterView *view;
    event completed;
};

/* The thread of an I/O library: the answer comes after the interpreter is gone. */
static void complete(void *argument)
{
    struct request *request = argument;
    event_wait(&request->completed);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(request->view);
    CHECK_PTR(token, NULL);
    PyInterpreterView_Close(request->view);
    log_event("refused");
}

SCENARIO(callback_that_may_never_come, "A view keeps nobody waiting; a callback that comes too late is refused")
{
    static struct request request = {NULL, EVENT_INIT};
    py_init();
    request.view = PyInterpreterView_FromCurrent();
    CHECK(request.view != NULL);
    pthread_t thread = thread_start(complete, &request);
    py_finalize();
    log_event("finalized");
    event_set(&request.completed);
    thread_join(thread);
    expect_log("finalized,refused");
}

/* --- A callback without a place for user data ----------------------------------------------------------- */

static void on_signal(void)
{
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    PyInterpreterView_Close(view);
    if (token == NULL) {
        log_event("refused");
        return;
    }
    run("calls += 1");
    PyThreadState_Release(token);
    log_event("called");
}

static void call_back(void *unused)
{
    (void)unused;
    on_signal();
}

SCENARIO(callback_without_user_data, "PyInterpreterView_FromMain serves a callback that has no argument to carry anything in")
{
    call_back(NULL);
    py_init();
    run("calls = 0");
    py_thread_join(thread_start(call_back, NULL));
    call_back(NULL);
    Py_BEGIN_ALLOW_THREADS
    call_back(NULL);
    Py_END_ALLOW_THREADS
    CHECK_INT(eval_long("calls"), 3);
    py_finalize();
    thread_join(thread_start(call_back, NULL));
    expect_log("refused,called,called,called,refused");
}

/* --- A callback from inside Python from inside a callback ------------------------------------------------- */

static PyInterpreterGuard *the_guard;
static int depth;

static void call_python_again(void)
{
    PyThreadState *own = PyThreadState_Get();
    if (++depth < 20) {
        Py_BEGIN_ALLOW_THREADS
        PyThreadStateToken *token = PyThreadState_Ensure(the_guard);
        CHECK(token != NULL);
        CHECK_PTR(PyThreadState_Get(), own);
        run("again()");
        PyThreadState_Release(token);
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
    }
    CHECK_PTR(PyThreadState_Get(), own);
}

static void begin_calls(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("again()");
    PyThreadState_Release(token);
}

SCENARIO(callbacks_in_callbacks, "Native code that Python calls may call back into Python, to any depth")
{
    py_init();
    expose("again", call_python_again);
    the_guard = PyInterpreterGuard_FromCurrent();
    CHECK(the_guard != NULL);
    py_thread_join(thread_start(begin_calls, the_guard));
    CHECK_INT(depth, 20);
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(the_guard);
    py_finalize();
}
