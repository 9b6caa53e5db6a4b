/* The end of the main interpreter: it waits while guards are open, everything works during the wait,
 * and nothing is given afterwards. */

#include "handles.h"

#ifdef _WIN32
#  include <windows.h>
#elif defined(__linux__)
#  include <sys/syscall.h>
#endif

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;

/* --- The wait ---------------------------------------------------------------------------------- */

/* Once the exit has begun: attaches and runs Python many times, then closes the guard. */
static void work_through_the_exit(void *guard)
{
    event_wait(&exiting);
    for (int i = 0; i < 200; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("done += 1");
        PyThreadState_Release(token);
    }
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    CHECK_INT(eval_long("done"), 200);
    PyThreadState_Release(token);
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(waits_for_a_guard,
         "While a guard is open its interpreter does not reach the point where threads that attach "
         "are hung or ended: Py_FinalizeEx")
{
    py_init();
    run("done = 0");
    pthread_t thread = thread_start(work_through_the_exit, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

SCENARIO(waits_for_a_guard_of_a_fresh_thread,
         "The same where the first use of the API is in a thread that has nothing attached")
{
    py_init();
    run("done = 0");
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyInterpreterGuard *guard;
    Py_BEGIN_ALLOW_THREADS
    guard = PyInterpreterGuard_FromView(view);
    Py_END_ALLOW_THREADS
    CHECK(guard != NULL);
    /* Runs what is pending, so that the callback below is the later one of the two. */
    run("for _ in range(1000): pass");
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(work_through_the_exit, guard);
    py_finalize_beside(thread, "worked,finalized");
    PyInterpreterView_Close(view);
}

static void close_from_python(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
    /* A daemon from here on: the Release may find the interpreter finalizing, and then this thread
     * never comes back. That is legal, and must disturb nobody. */
    PyThreadState_Release(token);
}

/* A debug build may find that finalization has cleared the thread state before the thread does. */
// pythons: release
SCENARIO(closed_while_attached, "Closing the last guard while still attached ends the wait as well")
{
    py_init();
    thread_start(close_from_python, guard_here());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    expect_log("closed,finalized");
}

static PyInterpreterGuard *handed_over;
static event handed = EVENT_INIT;

static void finish_for_another(void *unused)
{
    (void)unused;
    event_wait(&handed);
    PyThreadStateToken *token = PyThreadState_Ensure(handed_over);
    CHECK(token != NULL);
    run("x = sum(range(1000))");
    PyThreadState_Release(token);
    log_event("second closed");
    PyInterpreterGuard_Close(handed_over);
}

static void take_another_and_hand_over(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    handed_over = guard_here();
    PyThreadState_Release(token);
    log_event("first closed");
    PyInterpreterGuard_Close(guard);
    event_set(&handed);
}

SCENARIO(a_holder_may_take_more, "While a guard is open, its holder gets more of them during the wait; the wait is for all")
{
    py_init();
    pthread_t first = thread_start(take_another_and_hand_over, guard_here());
    pthread_t second = thread_start(finish_for_another, NULL);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(first);
    thread_join(second);
    expect_log("first closed,second closed,finalized");
}

static event attached_through_view = EVENT_INIT;

static void attach_through_view(void *view)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    run("x = sum(range(1000))");
    PyThreadState_Release(token);
    log_event("attached");
    event_set(&attached_through_view);
}

static void hold_until_attached(void *guard)
{
    event_wait(&attached_through_view);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
}

// env: PEP788_DRAIN_GRACE_MS=-1
SCENARIO(views_are_honoured_during_the_wait, "While a guard is open, views of that interpreter resolve for everybody")
{
    py_init();
    PyInterpreterView *view = view_here();
    pthread_t holder = thread_start(hold_until_attached, guard_here());
    pthread_t other = thread_start(attach_through_view, view);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(holder);
    thread_join(other);
    expect_log("attached,closed,finalized");
    PyInterpreterView_Close(view);
}

static void wait_for_a_python_thread(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    /* The main thread waits without the GIL, so this daemon thread can answer. */
    run("requests.put('ping')\n"
        "assert answers.get() == 'pong'");
    PyThreadState_Release(token);
    log_event("answered");
    PyInterpreterGuard_Close(guard);
}

static void wait_for_a_python_thread_at_exit(void *guard)
{
    event_wait(&exiting);
    wait_for_a_python_thread(guard);
}

SCENARIO(other_threads_go_on_during_the_wait,
         "The wait keeps nobody from running: a guarded thread may need the help of others")
{
    py_init();
    run("import threading, queue\n"
        "requests, answers = queue.Queue(), queue.Queue()\n"
        "def helper():\n"
        "    while requests.get():\n"
        "        answers.put('pong')\n"
        "threading.Thread(target=helper, daemon=True).start()");
    pthread_t thread = thread_start(wait_for_a_python_thread_at_exit, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "answered,finalized");
}

static event closed = EVENT_INIT;

static void start_a_python_thread(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("threading.Thread(target=body, daemon=False).start()");
    PyThreadState_Release(token);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
    event_set(&closed);
}

static void wait_until_closed(void)
{
    py_event_wait(&closed);
    /* Long enough for a main thread that does not wait for this one. */
    for (int i = 0; i < 20000; i++) {
        run("x = sum(range(1000))");
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    log_event("joined");
}

/* In 3.12 no thread can be started once the exit has begun. */
// pythons: !=3.12
// native: no, it does not join such a thread
SCENARIO(a_thread_started_during_the_wait_is_joined,
         "A non-daemon threading.Thread that a guarded thread starts during the wait is joined")
{
    py_init();
    expose("body", wait_until_closed);
    run("import threading");
    pthread_t thread = thread_start(start_a_python_thread, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "closed,joined,finalized");
}

static void start_an_odd_thread(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("class Odd(threading.Thread):\n"
        "    def join(self, timeout):\n"
        "        raise RuntimeError('not this way')\n"
        "Odd(target=body, daemon=False).start()");
    PyThreadState_Release(token);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
    event_set(&closed);
}

// pythons: !=3.12
// native: no, it does not join such a thread
SCENARIO(a_thread_with_a_join_of_its_own_is_joined,
         "What a subclass makes of Thread.join is no matter when the exit joins")
{
    py_init();
    expose("body", wait_until_closed);
    run("import threading");
    pthread_t thread = thread_start(start_an_odd_thread, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "closed,joined,finalized");
}

/* --- Exit callbacks ------------------------------------------------------------------------------ */

static PyInterpreterView *the_view;

static void use_everything(void *what)
{
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);

    guard = PyInterpreterGuard_FromView(the_view);
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);

    token = PyThreadState_EnsureFromView(the_view);
    CHECK(token != NULL);
    CHECK_PTR(PyThreadState_Get(), own);
    run("x = 1");
    PyThreadState_Release(token);
    log_event(what);
}

SCENARIO(everything_works_in_exit_callbacks, "Guards are given until the interpreter finalizes: in an atexit callback they still are")
{
    py_init();
    the_view = view_here();
    at_exit(use_everything, (void *)"used");
    py_finalize();
    expect_log("used");
    PyInterpreterView_Close(the_view);
}

static void guard_is_open_in_a_callback(void *unused)
{
    (void)unused;
    PyThreadStateToken *token = PyThreadState_EnsureFromView(the_view);
    CHECK(token != NULL);
    log_event("first");
    PyThreadState_Release(token);
}

SCENARIO(callbacks_run_while_a_guard_is_open, "A callback that uses the API runs before the wait, not after: a guard is open")
{
    py_init();
    run("done = 0");
    the_view = view_here();
    pthread_t thread = thread_start(work_through_the_exit, guard_here());
    at_exit(set_event, &exiting);
    at_exit(guard_is_open_in_a_callback, NULL);
    py_finalize_beside(thread, "first,worked,finalized");
    PyInterpreterView_Close(the_view);
}

/* A thread that an exit callback joins. */
static void attach_many_times(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(the_view);
        CHECK(token != NULL);
        run("x = sum(range(50))");
        PyThreadState_Release(token);
    }
    log_event("attached");
}

static void use_and_join(void *unused)
{
    (void)unused;
    PyInterpreterGuard_Close(guard_here());
    py_thread_join(thread_start(attach_many_times, NULL));
    log_event("joined");
}

SCENARIO(a_callback_older_than_the_first_use,
         "The wait comes after an atexit callback registered before the first use, too: it gets guards, and so do "
         "threads that it joins")
{
    py_init();
    at_exit(use_and_join, NULL);
    the_view = view_here();
    py_finalize();
    expect_log("attached,joined");
    PyInterpreterView_Close(the_view);
}

static void end_with_an_older_callback(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    PyThreadState_Swap(sub);
    at_exit(use_and_join, NULL);
    the_view = view_here();
    PyThreadState_Swap(own);
    sub_end(sub);
    log_event("ended");
    expect_log("attached,joined,ended");
    PyInterpreterView_Close(the_view);
    py_finalize();
}

SCENARIO(an_older_callback_of_a_subinterpreter, "... of a subinterpreter")
{
    end_with_an_older_callback(sub_new);
}

// pythons: >=3.12
SCENARIO(an_older_callback_of_an_isolated_one, "... that has a GIL of its own")
{
    end_with_an_older_callback(sub_new_isolated);
}

/* --- Afterwards ----------------------------------------------------------------------------------- */

static void check_refused_in_teardown(void *unused)
{
    (void)unused;
    PyThreadState *own = PyThreadState_Get();
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);

    CHECK_PTR(PyInterpreterGuard_FromCurrent(), NULL);
    check_finalization_error();
    CHECK_PTR(PyInterpreterGuard_FromView(the_view), NULL);
    CHECK(!PyErr_Occurred());
    CHECK_PTR(PyThreadState_EnsureFromView(the_view), NULL);
    CHECK(!PyErr_Occurred());
    CHECK_PTR(PyThreadState_Get(), own);

    PyErr_Restore(type, value, traceback);
    log_event("refused");
}

SCENARIO(refused_in_finalizers,
         "Once the interpreter no longer takes guards, FromCurrent fails with PythonFinalizationError "
         "(3.13) or RuntimeError, FromView and EnsureFromView with NULL and no exception")
{
    py_init();
    the_view = view_here();
    at_teardown(check_refused_in_teardown, NULL);
    py_finalize();
    expect_log("refused");
    PyInterpreterView_Close(the_view);
}

static void refused(void)
{
    check_refused_in_teardown(NULL);
}

SCENARIO(refused_in_a_del_method, "The same from __del__ of an object that lives until the end")
{
    py_init();
    the_view = view_here();
    expose("refused", refused);
    run("class Last:\n"
        "    def __del__(self, refused=refused):\n"
        "        refused()\n"
        "last = Last()");
    py_finalize();
    expect_log("refused");
    PyInterpreterView_Close(the_view);
}

static void made_in_teardown(void *unused)
{
    (void)unused;
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    PyInterpreterView_Close(view);
    log_event("made");
}

SCENARIO(a_view_made_too_late_is_refused, "PyInterpreterView_FromMain fails only when out of memory, also in finalizers; the view is refused")
{
    py_init();
    PyInterpreterView_Close(view_here());
    at_teardown(made_in_teardown, NULL);
    py_finalize();
    expect_log("made");
}

SCENARIO(first_use_in_a_finalizer, "Refused also where this is the first use of the API at all")
{
    py_init();
    at_teardown(made_in_teardown, NULL);
    py_finalize();
    expect_log("made");
}

static void from_current_in_teardown(void *unused)
{
    (void)unused;
    CHECK_PTR(PyInterpreterGuard_FromCurrent(), NULL);
    check_finalization_error();
    log_event("refused");
}

SCENARIO(first_guard_in_a_finalizer, "PyInterpreterGuard_FromCurrent raises in finalizers also where this is the first use of the API at all")
{
    py_init();
    at_teardown(from_current_in_teardown, NULL);
    py_finalize();
    expect_log("refused");
}

static event finalized = EVENT_INIT;

static void check_refused_afterwards(void *view)
{
    event_wait(&finalized);
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    log_event("refused");
}

SCENARIO(refused_to_threads_afterwards, "Threads that come after the end are refused, and go on")
{
    py_init();
    PyInterpreterView *view = view_here();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(main_view != NULL);
    pthread_t first = thread_start(check_refused_afterwards, view);
    pthread_t second = thread_start(check_refused_afterwards, main_view);
    py_finalize();
    event_set(&finalized);
    thread_join(first);
    thread_join(second);
    expect_log("refused,refused");
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(main_view);
}

static void used_before_then_refused(void *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    event_set(&inside);
    check_refused_afterwards(view);
}

SCENARIO(refused_to_a_thread_that_was_served_before,
         "A thread that attached before the end is refused after it: nothing it remembers is trusted")
{
    py_init();
    PyInterpreterView *view = view_here();
    pthread_t thread = thread_start(used_before_then_refused, view);
    py_event_wait(&inside);
    py_finalize();
    event_set(&finalized);
    thread_join(thread);
    expect_log("refused");
    PyInterpreterView_Close(view);
}

/* --- Nothing to wait for ---------------------------------------------------------------------------- */

SCENARIO(never_used, "A program that never uses the API ends as ever")
{
    py_init();
    run("import threading\n"
        "thread = threading.Thread(target=print)\n"
        "thread.start()\n"
        "thread.join()");
    py_finalize();
}

static void run_exit_functions(void *unused)
{
    (void)unused;
    log_event("callback");
}

// arm: no, the stack of CPython cannot be read there, so they are taken for the end
SCENARIO(exit_functions_run_early,
         "Exit callbacks that are run in the middle of a run shut nothing: the end has not come")
{
    py_init();
    the_view = view_here();
    at_exit(run_exit_functions, NULL);
    run("import atexit; atexit._run_exitfuncs()");
    expect_log("callback");
    use_everything((void *)"used");
    run("done = 0");
    pthread_t thread = thread_start(work_through_the_exit, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "callback,used,worked,finalized");
    PyInterpreterView_Close(the_view);
}

SCENARIO(exit_functions_cleared, "A program that clears its exit callbacks is waited for nevertheless")
{
    py_init();
    the_view = view_here();
    run("done = 0");
    run("import atexit; atexit._clear()");
    pthread_t thread = thread_start(work_through_the_exit, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
    PyInterpreterView_Close(the_view);
}

/* --- The queue of pending calls ------------------------------------------------------------------- */

static int do_nothing(void *unused)
{
    (void)unused;
    return 0;
}

static void fill_the_queue(void *unused)
{
    (void)unused;
    while (Py_AddPendingCall(do_nothing, NULL) == 0) {
    }
    event_set(&exiting);
}

struct ways {
    PyInterpreterGuard *guard;
    PyInterpreterView *view;
};

static void attach_during_the_wait(void *argument)
{
    struct ways *ways = argument;
    event_wait(&exiting);
    /* The first one attaches when the exit has detached, to wait. */
    for (int i = 0; i < 20; i++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(ways->view);
        CHECK(token != NULL);
        PyThreadState_Release(token);
    }
    log_event("attached");
    PyInterpreterGuard_Close(ways->guard);
}

SCENARIO(waits_with_a_full_queue, "While an exit waits, views are honoured though CPython takes no more pending calls")
{
    py_init();
    when_exit_callbacks_have_run(fill_the_queue, NULL);
    struct ways ways = {guard_here(), PyInterpreterView_FromMain()};
    CHECK(ways.view != NULL);
    pthread_t thread = thread_start(attach_during_the_wait, &ways);
    py_finalize_beside(thread, "attached,finalized");
    PyInterpreterView_Close(ways.view);
}

/* --- A host that runs the exit callbacks ------------------------------------------------------------ */

static void by_view(void *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    run("x = 1");
    PyThreadState_Release(token);
}

static void run_exit_callbacks(void)
{
    PyObject *atexit = PyImport_ImportModule("atexit");
    CHECK(atexit != NULL);
    PyObject *result = PyObject_CallMethod(atexit, "_run_exitfuncs", NULL);
    CHECK(result != NULL);
    Py_DECREF(result);
    Py_DECREF(atexit);
}

// arm: no, the stack of CPython cannot be read there, so they are taken for the end
SCENARIO(exit_functions_run_from_c, "C code that runs the exit callbacks in the middle of a run closes nothing, and the exit waits")
{
    py_init();
    PyInterpreterView *view = view_here();
    for (int i = 0; i < 3; i++) {
        run_exit_callbacks();
        PyInterpreterGuard_Close(guard_here());
        py_thread_join(thread_start(by_view, view));
    }
    run_exit_callbacks();
    run("done = 0");
    pthread_t thread = thread_start(work_through_the_exit, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
    PyInterpreterView_Close(view);
}

// arm: no, the stack of CPython cannot be read there, so they are taken for the end
SCENARIO(exit_functions_run_from_c_last, "The same where nothing uses the library after that but threads")
{
    py_init();
    run("done = 0");
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterView *view = view_here();
    run_exit_callbacks();
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(work_through_the_exit, guard);
    py_finalize_beside(thread, "worked,finalized");
    PyInterpreterView_Close(view);
}

/* --- A thread that is not there any more ---------------------------------------------------------- */

static void vanish_inside(void *view)
{
    CHECK(PyThreadState_EnsureFromView(view) != NULL);
    run("x = 1");
    PyEval_SaveThread();
    /* Of this thread alone, and no destructor is called. */
#ifdef _WIN32
    TerminateThread(GetCurrentThread(), 0);
#elif defined(__linux__)
    syscall(SYS_exit, 0);
#endif
}

// native: no, waits for it without end
// macos: no, no thread ends like that there
// musl: no, it does not know of such an end itself, and never stops waiting for the thread
// sanitize: not address thread, which want to be told of a thread's end
SCENARIO(a_thread_that_vanished, "A thread that ended inside an Ensure is not waited for, even if nobody was told of its end")
{
    py_init();
    PyInterpreterView *view = view_here();
    for (int i = 0; i < 20; i++) {
        py_thread_join(thread_start(vanish_inside, view));
    }
    py_finalize();
    PyInterpreterView_Close(view);
}
