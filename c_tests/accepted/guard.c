/* Guards: who gets one, that every one of them counts, and who may close them. */

#include "barrier.h"
#include "handles.h"

enum { THREADS = 8, ROUNDS = 2000 };

SCENARIO(from_current, "PyInterpreterGuard_FromCurrent: success is a guard on the current interpreter")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    CHECK(!PyErr_Occurred());
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

SCENARIO(from_current_names_the_subinterpreter,
         "PyInterpreterGuard_FromCurrent: the guard is on the current interpreter, which may be a "
         "subinterpreter")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();

    swap(main_state, sub);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    swap(sub, main_state);

    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    CHECK_PTR(attached_interpreter(), PyThreadState_GetInterpreter(sub));
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);

    sub_end(sub);
    py_finalize();
}

SCENARIO(from_view_keeps_the_view, "PyInterpreterGuard_FromView: success is a guard; the view stays valid")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyInterpreterGuard *first = PyInterpreterGuard_FromView(view);
    PyInterpreterGuard *second = PyInterpreterGuard_FromView(view);
    CHECK(first != NULL);
    CHECK(second != NULL);
    PyInterpreterGuard_Close(first);
    PyInterpreterGuard_Close(second);
    PyInterpreterView_Close(view);
    py_finalize();
}

static void take_and_close_detached(void *view)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
    CHECK(guard != NULL);
    CHECK_PTR(attached(), NULL);
    PyInterpreterGuard_Close(guard);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(from_view_detached, "PyInterpreterGuard_FromView and _Close: the caller is attached or not")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    py_thread_join(thread_start(take_and_close_detached, view));
    Py_BEGIN_ALLOW_THREADS
    take_and_close_detached(view);
    Py_END_ALLOW_THREADS
    PyInterpreterView_Close(view);
    py_finalize();
}

SCENARIO(from_view_of_another_interpreter,
         "PyInterpreterGuard_FromView: the caller may be attached to another interpreter, and stays so")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
    CHECK(guard != NULL);
    CHECK_PTR(PyThreadState_Get(), sub);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    swap(sub, main_state);
    sub_end(sub);
    py_finalize();
}

/* --- Each one counts ------------------------------------------------------------------------- */

static event exiting = EVENT_INIT;
static PyInterpreterGuard *guards[3];

static void close_one_by_one(void *unused)
{
    (void)unused;
    event_wait(&exiting);
    for (int i = 0; i < 3; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guards[i]);
        CHECK(token != NULL);
        run("x = sum(range(1000))");
        PyThreadState_Release(token);
        log_event("closed");
        PyInterpreterGuard_Close(guards[i]);
    }
}

SCENARIO(every_guard_counts, "While a guard is open its interpreter does not finalize: not before the last is closed")
{
    py_init();
    for (int i = 0; i < 3; i++) {
        guards[i] = PyInterpreterGuard_FromCurrent();
        CHECK(guards[i] != NULL);
    }
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(close_one_by_one, NULL);
    py_finalize_beside(thread, "closed,closed,closed,finalized");
}

SCENARIO(many_at_once, "PyInterpreterGuard_FromCurrent: any number of guards, closed in any order")
{
    enum { MANY = 10000 };
    static PyInterpreterGuard *many[MANY];
    py_init();
    for (int i = 0; i < MANY; i++) {
        many[i] = PyInterpreterGuard_FromCurrent();
        CHECK(many[i] != NULL);
    }
    /* Every third first, then the rest from behind. */
    for (int i = 0; i < MANY; i += 3) {
        PyInterpreterGuard_Close(many[i]);
    }
    for (int i = MANY - 1; i >= 0; i--) {
        if (i % 3 != 0) {
            PyInterpreterGuard_Close(many[i]);
        }
    }
    py_finalize();
}

static pthread_barrier_t together;

static void open_and_close(void *view)
{
    pthread_barrier_wait(&together);
    for (int i = 0; i < ROUNDS; i++) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        CHECK(guard != NULL);
        PyInterpreterGuard_Close(guard);
    }
}

SCENARIO(from_many_threads, "PyInterpreterGuard_FromView and _Close: from any thread, also all at once")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    count_apart(view);
    CHECK_INT(pthread_barrier_init(&together, NULL, THREADS), 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(open_and_close, view);
    }
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    PyInterpreterView_Close(view);
    /* Would hang if a single one was counted twice, or a close was lost. */
    py_finalize();
}

/* --- Whose guard ------------------------------------------------------------------------------ */

static PyInterpreterGuard *left_behind;

static void take_and_leave(void *view)
{
    left_behind = PyInterpreterGuard_FromView(view);
    CHECK(left_behind != NULL);
}

static void work_and_close(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("x = sum(range(1000))");
    PyThreadState_Release(token);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(outlives_the_thread_that_took_it,
         "A guard belongs to no thread: the one that took it may be gone, and another may attach "
         "through it and close it")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    count_apart(view);
    py_thread_join(thread_start(take_and_leave, view));
    PyInterpreterView_Close(view);
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(work_and_close, left_behind);
    py_finalize_beside(thread, "closed,finalized");
}

static event torn_down = EVENT_INIT;

static void close_only(void *guard)
{
    event_wait(&exiting);
    CHECK(!event_wait_ms(&torn_down, 100));
    log_event("closed");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(closed_by_a_thread_that_never_attached,
         "PyInterpreterGuard_Close: the caller need not be attached, and the wait ends")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    at_exit(set_event, &exiting);
    at_teardown(set_event, &torn_down);
    pthread_t thread = thread_start(close_only, guard);
    py_finalize_beside(thread, "closed,finalized");
}

static void ensure_repeatedly(void *guard)
{
    pthread_barrier_wait(&together);
    for (int i = 0; i < 200; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("shared.append(1)");
        PyThreadState_Release(token);
    }
}

SCENARIO(shared_by_many_threads, "PyThreadState_Ensure: many threads attach through one guard")
{
    py_init();
    run("shared = []");
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    CHECK_INT(pthread_barrier_init(&together, NULL, THREADS), 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(ensure_repeatedly, guard);
    }
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    CHECK_INT(eval_long("len(shared)"), 200 * THREADS);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

/* --- First use where imports are restricted --------------------------------------------------------- */

static void take_and_close(void)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);
}

SCENARIO(first_use_in_a_sandbox, "PyInterpreterGuard_FromCurrent: a guard for code without builtins, and so without imports")
{
    py_init();
    expose("take_and_close", take_and_close);
    run("exec('take_and_close()', {'take_and_close': take_and_close, '__builtins__': {}})");
    py_finalize();
}

SCENARIO(first_use_with_another_import, "PyInterpreterGuard_FromCurrent: a guard where __import__ was replaced by one that refuses")
{
    py_init();
    expose("take_and_close", take_and_close);
    run("import builtins\n"
        "def refuse(*arguments, **keywords):\n"
        "    raise RuntimeError('no imports here')\n"
        "kept, builtins.__import__ = builtins.__import__, refuse\n"
        "take_and_close()\n"
        "builtins.__import__ = kept\n");
    py_finalize();
}

static void take_and_be_refused(void)
{
    CHECK_PTR(PyInterpreterGuard_FromCurrent(), NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_PermissionError));
    PyErr_Clear();
    CHECK_PTR(PyInterpreterView_FromCurrent(), NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_PermissionError));
    PyErr_Clear();
}

// native: no, it needs no module
SCENARIO(first_use_under_audit,
         "PyInterpreterGuard_FromCurrent, PyInterpreterView_FromCurrent: the exception of an audit hook is passed on")
{
    py_init();
    expose("take_and_be_refused", take_and_be_refused);
    expose("take_and_close", take_and_close);
    run("import sys\n"
        "sys.modules.pop('atexit', None)\n"
        "refuses = True\n"
        "def hook(event, arguments):\n"
        "    if refuses and event == 'import' and arguments[0] == 'atexit':\n"
        "        raise PermissionError('not this one')\n"
        "sys.addaudithook(hook)\n"
        "take_and_be_refused()\n"
        "refuses = False\n"
        "take_and_close()\n");
    py_finalize();
}
