/* Subinterpreters: each has its own end, and a thread may go through them in any nesting. */

#include "barrier.h"
#include "handles.h"

#include <stdatomic.h>

static event exiting = EVENT_INIT;

/* --- The end of a subinterpreter ------------------------------------------------------------------ */

static void work_through_the_exit(void *guard)
{
    event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        CHECK(attached_interpreter() != PyInterpreterState_Main());
        run("done += 1");
        CHECK_INT(eval_long("done"), i + 1);
        PyThreadState_Release(token);
    }
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

static void end_waits(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    PyInterpreterGuard *guard = guard_of(sub);
    swap(main_state, sub);
    run("done = 0");
    at_exit(set_event, &exiting);
    swap(sub, main_state);
    pthread_t thread = thread_start(work_through_the_exit, guard);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    expect_log("worked,ended");
    run("x = 1");
    py_finalize();
}

SCENARIO(end_waits_for_a_guard, "While a guard is open its interpreter does not end: Py_EndInterpreter")
{
    end_waits(sub_new);
}

// pythons: >=3.12
SCENARIO(end_of_an_isolated_one_waits, "While a guard is open its interpreter does not end: Py_EndInterpreter, with a GIL of its own")
{
    end_waits(sub_new_isolated);
}

static event torn_down = EVENT_INIT;

static void close_only(void *guard)
{
    event_wait(&exiting);
    CHECK(!event_wait_ms(&torn_down, 100));
    log_event("closed");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(end_waits_until_closed_without_a_thread_state,
         "Py_EndInterpreter: the guard may be closed by a thread that has no thread state")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    swap(main_state, sub);
    at_exit(set_event, &exiting);
    at_teardown(set_event, &torn_down);
    swap(sub, main_state);
    pthread_t thread = thread_start(close_only, guard);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    expect_log("closed,ended");
    py_finalize();
}

static void attach_and_stay(void *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    CHECK(attached_interpreter() != PyInterpreterState_Main());
    log_event("inside");
    event_set(&exiting);
    run("x = sum(range(10000))");
    log_event("released");
    PyThreadState_Release(token);
}

SCENARIO(not_the_last_thread,
         "Release deletes the thread state before it gives up what holds the interpreter, so that "
         "Py_EndInterpreter finds its own one alone")
{
    py_init();
    /* Once attached the thread holds the subinterpreter through EnsureFromView, and its Release races with
     * Py_EndInterpreter, which is fatal when it finds another thread state. */
    for (int round = 0; round < 50; round++) {
        PyThreadState *sub = sub_new();
        PyInterpreterView *view = view_of(sub);
        exiting.happened = false;
        pthread_t thread = thread_start(attach_and_stay, view);
        py_event_wait(&exiting);
        sub_end(sub);
        py_thread_join(thread);
        PyInterpreterView_Close(view);
    }
    CHECK_INT(log_count("inside"), 50);
    CHECK_INT(log_count("released"), 50);
    py_finalize();
}

SCENARIO(guards_of_others_do_not_hold, "A guard holds its own interpreter only: another one ends meanwhile")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *first = sub_new();
    PyThreadState *second = sub_new();
    PyInterpreterGuard *of_main = guard_of(main_state);
    PyInterpreterGuard *of_second = guard_of(second);
    PyInterpreterView *view = view_of(first);
    /* Would hang if it waited for either. */
    sub_end(first);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    PyThreadStateToken *token = PyThreadState_Ensure(of_second);
    CHECK(token != NULL);
    run("x = 1");
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(of_second);
    PyInterpreterGuard_Close(of_main);
    PyInterpreterView_Close(view);
    sub_end(second);
    py_finalize();
}

static PyInterpreterView *the_view;

static void check_refused(void *unused)
{
    (void)unused;
    PyThreadState *own = PyThreadState_Get();
    CHECK_PTR(PyInterpreterGuard_FromCurrent(), NULL);
    check_finalization_error();
    CHECK_PTR(PyInterpreterGuard_FromView(the_view), NULL);
    CHECK_PTR(PyThreadState_EnsureFromView(the_view), NULL);
    CHECK(!PyErr_Occurred());
    CHECK_PTR(PyThreadState_Get(), own);
    log_event("refused");
}

SCENARIO(refused_in_finalizers, "Once a subinterpreter no longer takes guards, its finalizers are refused; the main one still serves")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    the_view = view_of(sub);
    swap(main_state, sub);
    at_teardown(check_refused, NULL);
    swap(sub, main_state);
    sub_end(sub);
    expect_log("refused");
    PyInterpreterView_Close(the_view);
    PyInterpreterGuard *guard = guard_of(main_state);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

/* --- The end of the main interpreter --------------------------------------------------------------- */

static void main_waits(void)
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    swap(main_state, sub);
    run("done = 0");
    swap(sub, main_state);
    at_exit(set_event, &exiting);
    thread_start(work_through_the_exit, guard);
    Py_FinalizeEx();
    log_event("finalized");
    expect_log("worked,finalized");
}

// pythons: >=3.13
SCENARIO(main_waits_for_a_subinterpreters_guard,
         "Py_FinalizeEx hangs threads of all interpreters, so it waits for the guards of all")
{
    main_waits();
}

static void work_and_say_so(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("x = sum(range(1000))");
    PyThreadState_Release(token);
    puts("worked");
    fflush(stdout);
    PyInterpreterGuard_Close(guard);
}

// pythons: <3.13
// expect: signal SIGABRT
// expect: stdout "worked"
SCENARIO(main_waits_then_cpython_objects,
         "Up to 3.12 a subinterpreter that is still alive is a fatal error of CPython's own, but only "
         "after the wait for its guards")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    at_exit(set_event, &exiting);
    thread_start(work_and_say_so, guard);
    Py_FinalizeEx();
}

/* --- In any nesting --------------------------------------------------------------------------------- */

enum { LEVELS = 24 };

static PyInterpreterGuard *guards[3];
static PyInterpreterState *interpreters[3];

/* Goes to the interpreter that `path` names, and further from there; on the way back everything is
 * as it was. Every third level gives up the GIL for what is deeper. */
static void travel(const int *path, int length)
{
    if (length == 0) {
        return;
    }
    PyThreadState *before = attached();
    PyInterpreterGuard *guard = guards[*path];
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyThreadState *here = PyThreadState_Get();
    CHECK_PTR(attached_interpreter(), interpreters[*path]);
    if (before != NULL && PyThreadState_GetInterpreter(before) == interpreters[*path]) {
        CHECK_PTR(here, before);
    }
    run("visits = globals().get('visits', 0) + 1");
    if (length % 3 == 0) {
        Py_BEGIN_ALLOW_THREADS
        travel(path + 1, length - 1);
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
    } else {
        travel(path + 1, length - 1);
    }
    CHECK_PTR(PyThreadState_Get(), here);
    run("visits += 1");
    PyThreadState_Release(token);
    CHECK_PTR(attached(), before);
}

static const int to_and_fro[LEVELS] = {0, 1, 0, 2, 1, 0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 2, 1, 2, 1, 0, 2, 0, 0, 1};

static void travel_in_a_thread(void *unused)
{
    (void)unused;
    CHECK_PTR(attached(), NULL);
    for (int start = 0; start < LEVELS; start++) {
        travel(to_and_fro + start, LEVELS - start);
        CHECK_PTR(attached(), NULL);
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    }
    log_event("travelled");
}

static PyThreadState *subs[2];

static void begin_travels(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    guards[0] = guard_of(PyThreadState_Get());
    interpreters[0] = PyInterpreterState_Main();
    for (int i = 0; i < 2; i++) {
        subs[i] = new_interpreter();
        guards[i + 1] = guard_of(subs[i]);
        interpreters[i + 1] = PyThreadState_GetInterpreter(subs[i]);
    }
}

static void end_travels(void)
{
    CHECK_INT(count_thread_states(), 1);
    for (int i = 0; i < 3; i++) {
        PyInterpreterGuard_Close(guards[i]);
    }
    for (int i = 0; i < 2; i++) {
        PyThreadState *own = PyThreadState_Get();
        swap(own, subs[i]);
        CHECK_INT(count_thread_states(), 1);
        swap(subs[i], own);
        sub_end(subs[i]);
    }
    py_finalize();
}

SCENARIO(any_nesting_in_a_fresh_thread, "Ensure goes to any interpreter from any other, in any nesting; each Release restores exactly the level below: a fresh thread")
{
    begin_travels(sub_new);
    py_thread_join(thread_start(travel_in_a_thread, NULL));
    end_travels();
    expect_log("travelled");
}

SCENARIO(any_nesting_in_many_threads, "The same in several threads at a time")
{
    begin_travels(sub_new);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        threads[i] = thread_start(travel_in_a_thread, NULL);
    }
    for (int i = 0; i < 4; i++) {
        py_thread_join(threads[i]);
    }
    end_travels();
    CHECK_INT(log_count("travelled"), 4);
}

SCENARIO(any_nesting_in_the_main_thread, "The same in the main thread, attached and detached")
{
    begin_travels(sub_new);
    PyThreadState *own = PyThreadState_Get();
    travel(to_and_fro, LEVELS);
    travel(to_and_fro + 1, LEVELS - 1);
    CHECK_PTR(PyThreadState_Get(), own);
    Py_BEGIN_ALLOW_THREADS
    travel(to_and_fro, LEVELS);
    travel(to_and_fro + 1, LEVELS - 1);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    CHECK_PTR(PyThreadState_Get(), own);
    end_travels();
}

SCENARIO(any_nesting_from_a_subinterpreter, "The same in the main thread while it is attached to a subinterpreter")
{
    begin_travels(sub_new);
    PyThreadState *own = PyThreadState_Get();
    swap(own, subs[0]);
    travel(to_and_fro, LEVELS);
    travel(to_and_fro + 1, LEVELS - 1);
    CHECK_PTR(PyThreadState_Get(), subs[0]);
    swap(subs[0], own);
    end_travels();
}

// pythons: >=3.12
SCENARIO(any_nesting_of_isolated_ones, "The same where each interpreter has a GIL of its own")
{
    begin_travels(sub_new_isolated);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        threads[i] = thread_start(travel_in_a_thread, NULL);
    }
    travel(to_and_fro, LEVELS);
    for (int i = 0; i < 4; i++) {
        py_thread_join(threads[i]);
    }
    end_travels();
    CHECK_INT(log_count("travelled"), 4);
}

static pthread_barrier_t step;

/* Into the one subinterpreter from the other, again and again, in step with a thread that goes the other way. */
static void to_and_from(int which, int length)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guards[which]);
    CHECK(token != NULL);
    CHECK_PTR(attached_interpreter(), interpreters[which]);
    if (length > 1) {
        pthread_barrier_wait(&step);
        to_and_from(3 - which, length - 1);
        CHECK_PTR(attached_interpreter(), interpreters[which]);
    }
    PyThreadState_Release(token);
}

static void go_in_step(void *which)
{
    to_and_from(*(int *)which, 100);
    log_event("went");
}

// pythons: >=3.12
SCENARIO(each_into_the_others_interpreter,
         "Two threads that each Ensure where the other one is: without a GIL, the thread state that has no place left in its "
         "interpreter stops all threads of that one, and neither stands still for the other while it does so itself")
{
    CHECK_INT(pthread_barrier_init(&step, NULL, 2), 0);
    begin_travels(sub_new_isolated);
    int first[2] = {1, 2};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        threads[i] = thread_start(go_in_step, &first[i]);
    }
    for (int i = 0; i < 2; i++) {
        py_thread_join(threads[i]);
    }
    end_travels();
    CHECK_INT(log_count("went"), 2);
}

static void travel_from_python(void)
{
    PyThreadState *own = PyThreadState_Get();
    travel(to_and_fro, LEVELS);
    travel(to_and_fro + 1, LEVELS - 1);
    CHECK_PTR(PyThreadState_Get(), own);
    Py_BEGIN_ALLOW_THREADS
    travel(to_and_fro, LEVELS);
    travel(to_and_fro + 1, LEVELS - 1);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    log_event("travelled");
}

SCENARIO(any_nesting_in_threading_threads, "The same in threads of `threading`")
{
    begin_travels(sub_new);
    expose("travel", travel_from_python);
    run("import threading\n"
        "threads = [threading.Thread(target=travel) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()");
    end_travels();
    CHECK_INT(log_count("travelled"), 3);
}

static void through_views(void *views)
{
    PyInterpreterView **three = views;
    PyThreadStateToken *tokens[3];
    for (int i = 0; i < 3; i++) {
        tokens[i] = PyThreadState_EnsureFromView(three[i]);
        CHECK(tokens[i] != NULL);
        CHECK_PTR(attached_interpreter(), interpreters[i]);
    }
    for (int i = 2; i >= 0; i--) {
        CHECK_PTR(attached_interpreter(), interpreters[i]);
        PyThreadState_Release(tokens[i]);
    }
    CHECK_PTR(attached(), NULL);
}

SCENARIO(nesting_through_views, "EnsureFromView nests across interpreters as Ensure does")
{
    begin_travels(sub_new);
    PyInterpreterView *views[3] = {PyInterpreterView_FromMain(), view_of(subs[0]), view_of(subs[1])};
    py_thread_join(thread_start(through_views, views));
    for (int i = 0; i < 3; i++) {
        PyInterpreterView_Close(views[i]);
    }
    end_travels();
}

/* --- What is given does not mix ----------------------------------------------------------------------- */

static void check_name(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    for (int i = 0; i < 3; i++) {
        if (guards[i] == guard) {
            CHECK_INT(eval_long("number"), i);
        }
    }
    PyThreadState_Release(token);
}

SCENARIO(token_of_an_ensure_that_replaced,
         "An Ensure that puts a thread state in the place of another interpreter's returns the address of that")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyInterpreterView *view = view_of(sub);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK_PTR((void *)token, (void *)own);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), own);
    token = PyThreadState_EnsureFromView(view);
    CHECK_PTR((void *)token, (void *)own);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), own);
    PyInterpreterView_Close(view);
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    py_finalize();
}

SCENARIO(each_guard_names_its_own, "A guard made in one interpreter attaches to that one, from any thread")
{
    begin_travels(sub_new);
    for (int i = 0; i < 3; i++) {
        char code[32];
        snprintf(code, sizeof code, "number = %d", i);
        PyThreadStateToken *token = PyThreadState_Ensure(guards[i]);
        CHECK(token != NULL);
        run(code);
        PyThreadState_Release(token);
    }
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(check_name, guards[i]));
        check_name(guards[i]);
    }
    end_travels();
}

SCENARIO(created_and_ended_many_times, "Interpreters come and go, each used by a thread of its own before its end")
{
    py_init();
    for (int i = 0; i < 30; i++) {
        PyThreadState *main_state = PyThreadState_Get();
        PyThreadState *sub = sub_new();
        PyInterpreterGuard *guard = guard_of(sub);
        swap(main_state, sub);
        run("done = 0");
        at_exit(set_event, &exiting);
        swap(sub, main_state);
        exiting.happened = false;
        pthread_t thread = thread_start(work_through_the_exit, guard);
        sub_end(sub);
        py_thread_join(thread);
    }
    CHECK_INT(log_count("worked"), 30);
    py_finalize();
}

/* --- Thread states for others ----------------------------------------------------------------------- */

static PyThreadState *given;
static event taken = EVENT_INIT;
static atomic_bool done;

static void work_with_what_is_given(void *unused)
{
    (void)unused;
    PyEval_AcquireThread(given);
    event_set(&taken);
    /* In C code only, with the GIL for a while. */
    for (long i = 0; !atomic_load(&done); i++) {
        CHECK_PTR(PyThreadState_Get(), given);
        PyObject *list = PyList_New(3);
        CHECK(list != NULL);
        Py_DECREF(list);
        if (i % 2000 == 1999) {
            Py_BEGIN_ALLOW_THREADS
            sched_yield();
            Py_END_ALLOW_THREADS
        }
    }
    PyEval_ReleaseThread(given);
}

/* Later versions keep what is attached for each thread; their debug builds want it cleared where it was attached. */
// pythons: <3.12
// repeat: 5
SCENARIO(a_thread_state_made_for_a_worker,
         "A thread that made a thread state of another interpreter for a worker does not take it for its own")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadState *sub = sub_new();
    given = PyThreadState_New(PyThreadState_GetInterpreter(sub));
    CHECK(given != NULL);
    PyEval_SaveThread();
    pthread_t thread = thread_start(work_with_what_is_given, NULL);
    event_wait(&taken);
    for (int i = 0; i < 500; i++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        CHECK(token != NULL);
        CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
        run("x = [1, 2]");
        PyThreadState_Release(token);
    }
    atomic_store(&done, true);
    thread_join(thread);
    PyEval_RestoreThread(own);
    swap(own, sub);
    PyThreadState_Clear(given);
    PyThreadState_Delete(given);
    swap(sub, own);
    sub_end(sub);
    PyInterpreterView_Close(view);
    py_finalize();
}

static void make_neighbours(void *interpreter)
{
    event_set(&taken);
    while (!atomic_load(&done)) {
        PyThreadState_Delete(PyThreadState_New(interpreter));   /* in the list: next to the newest */
    }
}

/* Later debug builds delete no thread state that was not cleared, which takes the GIL. */
// pythons: <3.12
SCENARIO(neighbours_come_and_go,
         "A thread knows its own thread state also while others make and delete some of that interpreter")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadState *sub = sub_new();
    pthread_t thread = thread_start(make_neighbours, PyThreadState_GetInterpreter(sub));
    event_wait(&taken);
    swap(own, sub);
    for (int i = 0; i < 10; i++) {
        /* The GIL is taken with the subinterpreter's. */
        Py_BEGIN_ALLOW_THREADS
        sched_yield();
        Py_END_ALLOW_THREADS
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        CHECK(token != NULL);
        CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
        PyThreadState_Release(token);
        CHECK_PTR(PyThreadState_Get(), sub);
    }
    atomic_store(&done, true);
    thread_join(thread);
    swap(sub, own);
    sub_end(sub);
    PyInterpreterView_Close(view);
    py_finalize();
}
