/* Many threads, as fast as they can, while interpreters end under them. */

#include "harness.h"

enum { THREADS = 8 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int busy;

/* Counted by each thread when it has attached for the first time. */
static void note_busy(void)
{
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    busy++;
    CHECK_INT(pthread_cond_broadcast(&condition), 0);
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
}

static void wait_until_busy(int threads)
{
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    while (busy < threads) {
        CHECK_INT(pthread_cond_wait(&condition, &mutex), 0);
    }
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
    Py_END_ALLOW_THREADS
}

/* Attaches until it is refused. */
static void knock(void *view)
{
    for (long round = 0;; round++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        if (token == NULL) {
            break;
        }
        run("x = sum(range(20))");
        PyThreadState_Release(token);
        if (round == 0) {
            note_busy();
        }
    }
    /* Once refused, always refused. */
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    log_event("refused");
}

static void knock_with_guards(void *view)
{
    for (long round = 0;; round++) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        if (guard == NULL) {
            break;
        }
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("x = sum(range(20))");
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(guard);
        if (round == 0) {
            note_busy();
        }
    }
    log_event("refused");
}

static void exit_under(void (*body)(void *), PyInterpreterView *view)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(body, view);
    }
    wait_until_busy(THREADS);
    py_finalize();
    for (int i = 0; i < THREADS; i++) {
        thread_join(threads[i]);
    }
    CHECK_INT(log_count("refused"), THREADS);
    PyInterpreterView_Close(view);
}

// env: PEP788_DRAIN_GRACE_MS=20
// repeat: 100
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_while_threads_knock, "Threads that attach through views as fast as they can are refused at the end, and none is hung, ended or crashed")
{
    py_init();
    exit_under(knock, PyInterpreterView_FromCurrent());
}

// repeat: 3
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_is_bounded, "The exit ends however hard threads knock, with the settings as they are")
{
    py_init();
    exit_under(knock, PyInterpreterView_FromMain());
}

/* Each call is about 2 ms of Python, so that with eight of them somebody is always inside. */
static void call_for_long(void *view)
{
    for (long round = 0;; round++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        if (token == NULL) {
            break;
        }
        run("end = time.perf_counter() + 0.002\n"
            "while time.perf_counter() < end: pass");
        PyThreadState_Release(token);
        if (round == 0) {
            note_busy();
        }
    }
    log_event("refused");
}

static event refused_others = EVENT_INIT;

/* A holder goes on, and takes more, when all others were refused. */
static void outlast_them(void *guard)
{
    event_wait(&refused_others);
    for (int i = 0; i < 100; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        PyInterpreterGuard *more = PyInterpreterGuard_FromCurrent();
        CHECK(more != NULL);
        run("x = sum(range(20))");
        PyInterpreterGuard_Close(more);
        PyThreadState_Release(token);
    }
    log_event("outlasted");
    PyInterpreterGuard_Close(guard);
}

static void refuse_others(void *threads)
{
    for (int i = 0; i < THREADS; i++) {
        thread_join(((pthread_t *)threads)[i]);
    }
    event_set(&refused_others);
}

// env: PEP788_DRAIN_GRACE_MS=200
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_while_long_calls_overlap, "The exit ends though somebody is always inside: calls are refused after the grace, holders finish")
{
    py_init();
    run("import time");
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(view != NULL && guard != NULL);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(call_for_long, view);
    }
    wait_until_busy(THREADS);
    pthread_t holder = thread_start(outlast_them, guard);
    pthread_t referee = thread_start(refuse_others, threads);
    py_finalize();
    CHECK_INT(log_count("refused"), THREADS);
    CHECK_INT(log_count("outlasted"), 1);
    thread_join(holder);
    thread_join(referee);
    PyInterpreterView_Close(view);
}

// env: PEP788_DRAIN_GRACE_MS=200
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_while_nothing_but_long_calls_overlap, "The same without a holder")
{
    py_init();
    run("import time");
    exit_under(call_for_long, PyInterpreterView_FromMain());
}

// env: PEP788_DRAIN_GRACE_MS=20
// repeat: 20
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_while_threads_take_guards, "The same with a guard from the view for each attach")
{
    py_init();
    exit_under(knock_with_guards, PyInterpreterView_FromCurrent());
}

// env: PEP788_DRAIN_GRACE_MS=0
// repeat: 20
// native: no, it starves: the guard count is never seen at zero
SCENARIO(exit_without_grace, "The same where views are refused as soon as the exit begins")
{
    py_init();
    exit_under(knock, PyInterpreterView_FromCurrent());
}

// env: PEP788_DRAIN_GRACE_MS=20
// native: no, it starves: the guard count is never seen at zero
SCENARIO(subinterpreters_end_while_threads_knock, "The same at the end of a subinterpreter, many times over")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    for (int round = 0; round < 20; round++) {
        PyThreadState *sub = sub_new();
        swap(main_state, sub);
        PyInterpreterView *view = PyInterpreterView_FromCurrent();
        CHECK(view != NULL);
        swap(sub, main_state);
        busy = 0;
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
            threads[i] = thread_start(knock, view);
        }
        wait_until_busy(4);
        sub_end(sub);
        for (int i = 0; i < 4; i++) {
            py_thread_join(threads[i]);
        }
        PyInterpreterView_Close(view);
    }
    CHECK_INT(log_count("refused"), 80);
    py_finalize();
}

static PyInterpreterView *the_view;

static void attach_once(void *refused)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(the_view);
    if (token == NULL) {
        *(bool *)refused = true;
        return;
    }
    run("x = sum(range(20))");
    PyThreadState_Release(token);
}

/* Threads that each attach once and end, one after another, until one is refused. */
static void start_threads_until_refused(void *unused)
{
    (void)unused;
    bool refused = false;
    for (long round = 0; !refused; round++) {
        thread_join(thread_start(attach_once, &refused));
        if (round == 0) {
            note_busy();
        }
    }
    log_event("refused");
}

// repeat: 20
SCENARIO(exit_while_threads_come_and_go, "Short-lived threads attach once each, while the program exits")
{
    py_init();
    the_view = PyInterpreterView_FromCurrent();
    CHECK(the_view != NULL);
    pthread_t thread = thread_start(start_threads_until_refused, NULL);
    wait_until_busy(1);
    py_finalize();
    thread_join(thread);
    expect_log("refused");
    PyInterpreterView_Close(the_view);
}
