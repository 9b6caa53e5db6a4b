/* PyThreadState_Ensure and _Release: which thread state is chosen, and that what was attached
 * before is attached again. */

#include "handles.h"

/* --- The rules, in their order ----------------------------------------------------------------- */

SCENARIO(attached_and_matching_is_reused,
         "Ensure chooses the attached thread state if its interpreter matches")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    int before = count_thread_states();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), before);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), before);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

SCENARIO(last_used_is_attached_again,
         "Ensure, with nothing attached, chooses the thread state that this thread used last")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    int before = count_thread_states();
    PyThreadState *own = PyEval_SaveThread();
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), own);

    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), before);
    PyThreadState_Release(token);

    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), own);
    PyEval_RestoreThread(own);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void fresh_thread(void *guard)
{
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    PyThreadStateToken *token = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    CHECK_PTR(PyThreadState_GetInterpreter(state), PyInterpreterState_Main());
    CHECK_PTR(PyGILState_GetThisThreadState(), state);
    CHECK_INT(PyGILState_Check(), 1);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(fresh_thread_gets_a_new_one,
         "Ensure chooses else a new thread state, which the matching Release clears and deletes")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    CHECK_INT(count_thread_states(), 1);
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(fresh_thread, guard));
        CHECK_INT(count_thread_states(), 1);
    }
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void two_in_turn(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    uint64_t first = PyThreadState_GetID(PyThreadState_Get());
    PyThreadState_Release(token);
    token = ensure(guard);
    /* Never compare addresses: the first one's is free to be used again. */
    CHECK(PyThreadState_GetID(PyThreadState_Get()) != first);
    PyThreadState_Release(token);
}

SCENARIO(each_round_is_a_new_one, "A thread state that Ensure made does not outlive its Release")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    py_thread_join(thread_start(two_in_turn, guard));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void leave_a_local(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    run("local.value = Farewell()");
    CHECK_INT(eval_long("gone"), 0);
    PyThreadState_Release(token);
}

SCENARIO(release_clears_what_it_deletes,
         "Release clears a thread state that Ensure made: what is local to the thread is freed")
{
    py_init();
    run("import threading\n"
        "gone = 0\n"
        "class Farewell:\n"
        "    def __del__(self):\n"
        "        global gone\n"
        "        gone += 1\n"
        "local = threading.local()");
    PyInterpreterGuard *guard = guard_here();
    py_thread_join(thread_start(leave_a_local, guard));
    CHECK_INT(eval_long("gone"), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void other_interpreter_is_last(void *guards)
{
    PyInterpreterGuard **pair = guards;
    PyThreadStateToken *token = ensure(pair[1]);
    CHECK(attached_interpreter() != PyInterpreterState_Main());
    PyThreadState *sub_state = PyEval_SaveThread();
    /* Nothing attached, and the last used one belongs to the subinterpreter: no match. */
    PyThreadStateToken *inner = ensure(pair[0]);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(inner);
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(sub_state);
    CHECK_PTR(PyThreadState_Get(), sub_state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(last_used_of_another_interpreter_is_not_taken,
         "Ensure chooses the last used thread state only if its interpreter matches, else a new one")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guards[2] = {guard_here(), guard_of(sub)};
    py_thread_join(thread_start(other_interpreter_is_last, guards));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guards[0]);
    PyInterpreterGuard_Close(guards[1]);
    sub_end(sub);
    py_finalize();
}

SCENARIO(attached_to_another_interpreter,
         "Ensure, attached to another interpreter, makes a new thread state; Release deletes it and "
         "attaches again exactly what was attached before")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);

    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(attached_interpreter(), PyThreadState_GetInterpreter(sub));
    CHECK(PyThreadState_Get() != sub);
    CHECK_INT(count_thread_states(), 2);
    run("made_here = 1");
    PyThreadState_Release(token);

    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(eval_long("'made_here' in globals()"), 0);
    swap(own, sub);
    CHECK_INT(count_thread_states(), 1);
    CHECK_INT(eval_long("made_here"), 1);
    swap(sub, own);
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    py_finalize();
}

/* --- In a thread of Python's own ----------------------------------------------------------------- */

static PyInterpreterGuard *the_guard;

static void inside_a_threading_thread(void)
{
    PyThreadState *own = PyThreadState_Get();
    int before = count_thread_states();

    PyThreadStateToken *token = ensure(the_guard);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(token);

    Py_BEGIN_ALLOW_THREADS
    token = ensure(the_guard);
    CHECK_PTR(PyThreadState_Get(), own);
    /* It is the same thread to Python. */
    CHECK_INT(eval_long("local.mine"), 7);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS

    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), before);
    log_event("checked");
}

SCENARIO(in_a_threading_thread,
         "Ensure in a thread of `threading` takes that thread's own state, attached or detached")
{
    py_init();
    the_guard = guard_here();
    expose("check", inside_a_threading_thread);
    run("import threading\n"
        "local = threading.local()\n"
        "def body():\n"
        "    local.mine = 7\n"
        "    check()\n"
        "thread = threading.Thread(target=body)\n"
        "thread.start()\n"
        "thread.join()");
    PyInterpreterGuard_Close(the_guard);
    py_finalize();
    expect_log("checked");
}

/* --- Nesting -------------------------------------------------------------------------------------- */

static void nest(PyInterpreterGuard *guard, PyThreadState *same, int depth)
{
    if (depth == 0) {
        return;
    }
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), same);
    if (depth % 5 == 0) {
        /* Every fifth level detaches, so that the next one has to attach again. */
        Py_BEGIN_ALLOW_THREADS
        nest(guard, same, depth - 1);
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
    } else {
        nest(guard, same, depth - 1);
    }
    CHECK_PTR(PyThreadState_Get(), same);
    PyThreadState_Release(token);
}

static void nest_in_a_thread(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    nest(guard, PyThreadState_Get(), 200);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(deep_nesting, "Ensure nests to any depth; each Release undoes the most recent Ensure of its thread")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    nest(guard, PyThreadState_Get(), 200);
    py_thread_join(thread_start(nest_in_a_thread, guard));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void inner_guard(void *guard)
{
    PyThreadStateToken *outer = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    PyInterpreterGuard *own = guard_here();
    PyThreadStateToken *inner = ensure(own);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(inner);
    PyInterpreterGuard_Close(own);
    PyThreadState_Release(outer);
}

SCENARIO(several_guards_one_interpreter, "Ensure through different guards of one interpreter finds the same thread state")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    py_thread_join(thread_start(inner_guard, guard));
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

SCENARIO(an_exception_stays, "Ensure and Release leave an exception alone that the attached thread state has")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyErr_SetString(PyExc_KeyError, "mine");
    PyThreadStateToken *token = ensure(guard);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyThreadState_Release(token);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

SCENARIO(an_exception_does_not_cross, "Ensure into another interpreter starts without the exception of the first")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyErr_SetString(PyExc_KeyError, "mine");
    PyThreadStateToken *token = ensure(guard);
    CHECK(!PyErr_Occurred());
    run("x = 1");
    PyThreadState_Release(token);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    py_finalize();
}

/* --- Holding the interpreter ------------------------------------------------------------------------ */

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;
static event never = EVENT_INIT;

static void ensure_from_view_and_stay(void *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    event_set(&inside);
    py_event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        run("x = sum(range(1000))");
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    log_event("released");
    PyThreadState_Release(token);
}

SCENARIO(ensure_from_view_guards, "EnsureFromView: the interpreter stays guarded until the matching Release")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    pthread_t thread = thread_start(ensure_from_view_and_stay, view);
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "released,finalized");
    PyInterpreterView_Close(view);
}

SCENARIO(ensure_from_view_guards_the_attached,
         "EnsureFromView guards also where it reuses the attached thread state: what is nested inside "
         "keeps it guarded, and a guard in between does not end it")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadState *own = PyThreadState_Get();
    PyThreadStateToken *outer = PyThreadState_EnsureFromView(view);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(outer != NULL && inner != NULL);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(inner);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(outer);
    CHECK_PTR(PyThreadState_Get(), own);
    PyInterpreterView_Close(view);
    /* Would hang if one of the two was still held. */
    py_finalize();
}

SCENARIO(view_may_be_closed_inside, "EnsureFromView needs its view no longer than the call")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyInterpreterView_Close(view);
    run("x = 1");
    PyThreadState_Release(token);
    py_finalize();
}

static void become_a_daemon(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    CHECK(token != NULL);
    PyInterpreterGuard_Close(guard);
    /* Still attached, and can go on. */
    run("x = sum(range(1000))");
    Py_BEGIN_ALLOW_THREADS
    event_set(&inside);
    event_wait(&never);
    Py_END_ALLOW_THREADS
}

SCENARIO(plain_ensure_does_not_hold,
         "The plain Ensure does not hold the interpreter: closing the guard while still attached makes "
         "the thread a daemon thread, and finalization does not wait for it")
{
    py_init();
    thread_start(become_a_daemon, guard_here());
    py_event_wait(&inside);
    /* Would hang if the thread still held the interpreter. */
    py_finalize();
}

SCENARIO(guard_may_be_closed_before_release, "Release works after the guard was closed")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = ensure(guard);
    PyInterpreterGuard_Close(guard);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), own);
    py_finalize();
}

/* --- Too many --------------------------------------------------------------------------------------- */

// expect: fatal PyThreadState_Release ""
SCENARIO(release_too_many, "One Release too many is a fatal error that names the function")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = ensure(guard);
    PyThreadState_Release(token);
    PyThreadState_Release(token);
}

/* --- While others want the GIL ------------------------------------------------------------------------ */

enum { FIGHTERS = 4, ROUNDS = 200 };

static void fight(void *view)
{
    for (int i = 0; i < ROUNDS; i++) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        CHECK(token != NULL);
        PyThreadState *state = PyThreadState_Get();
        run("counts.append(sum(range(50)))");
        CHECK_PTR(PyThreadState_Get(), state);
        PyThreadState_Release(token);
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    }
}

SCENARIO(while_others_fight_for_the_gil,
         "Ensure attaches and Release restores while Python threads keep the GIL busy")
{
    py_init();
    run("import sys, threading\n"
        "sys.setswitchinterval(1e-5)\n"
        "counts = []\n"
        "stop = False\n"
        "def spin():\n"
        "    while not stop:\n"
        "        sum(range(100))\n"
        "spinners = [threading.Thread(target=spin) for _ in range(3)]\n"
        "for thread in spinners: thread.start()");
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    pthread_t threads[FIGHTERS];
    for (int i = 0; i < FIGHTERS; i++) {
        threads[i] = thread_start(fight, view);
    }
    for (int i = 0; i < FIGHTERS; i++) {
        py_thread_join(threads[i]);
    }
    run("stop = True\n"
        "for thread in spinners: thread.join()");
    CHECK_INT(eval_long("len(counts)"), FIGHTERS * ROUNDS);
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterView_Close(view);
    py_finalize();
}
