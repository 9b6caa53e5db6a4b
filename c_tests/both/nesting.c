/* Ensures of both dialects inside one another, on one thread. */
// sources: _draft.c

#include "handles.h"

#include "_draft.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;

/* Every way into one interpreter. */
struct ways {
    PyInterpreterGuard *guard;
    PyInterpreterView *view;
    void *ref;
};

static struct ways ways_here(void)
{
    struct ways ways = {
        PyInterpreterGuard_FromCurrent(),
        PyInterpreterView_FromCurrent(),
        draft_ref(),
    };
    CHECK(ways.guard != NULL);
    CHECK(ways.view != NULL);
    return ways;
}

static struct ways ways_into(PyThreadState *sub)
{
    PyThreadState *own = PyThreadState_Get();
    swap(own, sub);
    struct ways ways = ways_here();
    swap(sub, own);
    return ways;
}

static void close_ways(struct ways ways)
{
    PyInterpreterGuard_Close(ways.guard);
    PyInterpreterView_Close(ways.view);
    draft_close(ways.ref);
}

/* --- One interpreter ----------------------------------------------------------------------------- */

static void nest(struct ways *ways, PyThreadState *same, int depth)
{
    if (depth == 0) {
        return;
    }
    PyThreadStateToken *token = NULL;
    switch (depth % 3) {
    case 0:
        token = ensure(ways->guard);
        break;
    case 1:
        token = ensure_from_view(ways->view);
        break;
    default:
        draft_ensure(ways->ref);
    }
    CHECK_PTR(PyThreadState_Get(), same);
    if (depth % 7 == 0) {
        /* Then the next level has to attach again, and to detach. */
        Py_BEGIN_ALLOW_THREADS
        nest(ways, same, depth - 1);
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
    } else {
        nest(ways, same, depth - 1);
    }
    CHECK_PTR(PyThreadState_Get(), same);
    if (token != NULL) {
        PyThreadState_Release(token);
    } else {
        draft_release();
    }
}

static void nest_in_a_thread(void *ways)
{
    draft_ensure(((struct ways *)ways)->ref);
    nest(ways, PyThreadState_Get(), 200);
    CHECK_INT(count_thread_states(), 2);
    draft_release();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(deep, "Ensures of both dialects nest to any depth, and each Release undoes its own Ensure")
{
    py_init();
    struct ways ways = ways_here();
    nest(&ways, PyThreadState_Get(), 200);
    py_thread_join(thread_start(nest_in_a_thread, &ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways);
    /* Would hang if a level still held the interpreter. */
    py_finalize();
}

static void draft_inside_accepted(void *argument)
{
    struct ways *ways = argument;
    PyThreadStateToken *token = ensure(ways->guard);
    PyThreadState *state = PyThreadState_Get();
    draft_ensure(ways->ref);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    draft_release();
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
}

static void accepted_inside_draft(void *argument)
{
    struct ways *ways = argument;
    draft_ensure(ways->ref);
    PyThreadState *state = PyThreadState_Get();
    PyThreadStateToken *token = ensure(ways->guard);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), state);
    draft_release();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(one_state_for_both, "An Ensure reuses the thread state that one of the other dialect made, and leaves it alone")
{
    py_init();
    struct ways ways = ways_here();
    py_thread_join(thread_start(draft_inside_accepted, &ways));
    CHECK_INT(count_thread_states(), 1);
    py_thread_join(thread_start(accepted_inside_draft, &ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways);
    py_finalize();
}

static void detached_in_between(void *argument)
{
    struct ways *ways = argument;
    PyThreadStateToken *token = ensure(ways->guard);
    PyThreadState *state = PyEval_SaveThread();
    draft_ensure(ways->ref);
    CHECK_PTR(PyThreadState_Get(), state);
    PyEval_SaveThread();
    PyThreadStateToken *inner = ensure_from_view(ways->view);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(inner);
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(state);
    draft_release();
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(detached_between_the_two, "Detached inside an Ensure of one dialect, that of the other attaches the same thread state again")
{
    py_init();
    struct ways ways = ways_here();
    py_thread_join(thread_start(detached_in_between, &ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways);
    py_finalize();
}

static void with_gilstate(void *argument)
{
    struct ways *ways = argument;
    PyThreadStateToken *token = ensure(ways->guard);
    PyThreadState *state = PyThreadState_Get();
    PyGILState_STATE gilstate = PyGILState_Ensure();
    draft_ensure(ways->ref);
    PyGILState_STATE inner = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(inner);
    draft_release();
    PyGILState_Release(gilstate);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(with_gilstate_in_between, "PyGILState_Ensure between the two is in nobody's way")
{
    py_init();
    struct ways ways = ways_here();
    py_thread_join(thread_start(with_gilstate, &ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways);
    py_finalize();
}

static void interleaved(void *argument)
{
    struct ways *ways = argument;
    PyThreadStateToken *outermost = ensure(ways->guard);
    PyThreadState *state = PyThreadState_Get();
    PyThreadStateToken *first = ensure(ways->guard);
    draft_ensure(ways->ref);
    PyThreadState_Release(first);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(draft_get_daemon(), 0);
    draft_release();
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(draft_get_daemon(), 1);
    PyThreadState_Release(outermost);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(interleaved_with_the_other, "An Ensure of the accepted API may be released before a later one of the draft")
{
    py_init();
    struct ways ways = ways_here();
    py_thread_join(thread_start(interleaved, &ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways);
    py_finalize();
}

/* --- Two interpreters ------------------------------------------------------------------------------ */

static void nest_across(struct ways *main_ways, struct ways *sub_ways)
{
    PyInterpreterState *main_interpreter = PyInterpreterState_Main();

    PyThreadStateToken *in_main = ensure(main_ways->guard);
    PyThreadState *first = PyThreadState_Get();
    draft_ensure(sub_ways->ref);
    PyThreadState *second = PyThreadState_Get();
    PyThreadStateToken *in_main_again = ensure_from_view(main_ways->view);
    PyThreadState *third = PyThreadState_Get();
    draft_ensure(sub_ways->ref);
    PyThreadState *fourth = PyThreadState_Get();
    PyThreadStateToken *in_sub = ensure(sub_ways->guard);

    /* All are alive, so their addresses tell them apart. */
    CHECK_PTR(PyThreadState_Get(), fourth);
    CHECK(first != third);
    CHECK(second != fourth);
    CHECK_PTR(PyThreadState_GetInterpreter(first), main_interpreter);
    CHECK(PyThreadState_GetInterpreter(second) != main_interpreter);
    CHECK_PTR(PyThreadState_GetInterpreter(third), main_interpreter);
    CHECK_PTR(PyThreadState_GetInterpreter(fourth), PyThreadState_GetInterpreter(second));
    run("x = 1");

    PyThreadState_Release(in_sub);
    CHECK_PTR(PyThreadState_Get(), fourth);
    draft_release();
    CHECK_PTR(PyThreadState_Get(), third);
    PyThreadState_Release(in_main_again);
    CHECK_PTR(PyThreadState_Get(), second);
    draft_release();
    CHECK_PTR(PyThreadState_Get(), first);
    PyThreadState_Release(in_main);
}

static void nest_across_in_a_thread(void *pair)
{
    struct ways *ways = pair;
    nest_across(&ways[0], &ways[1]);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

static void check_across(PyThreadState *sub)
{
    PyThreadState *own = PyThreadState_Get();
    struct ways ways[2] = {ways_here(), ways_into(sub)};
    nest_across(&ways[0], &ways[1]);
    CHECK_PTR(PyThreadState_Get(), own);
    py_thread_join(thread_start(nest_across_in_a_thread, ways));
    CHECK_INT(count_thread_states(), 1);
    close_ways(ways[0]);
    close_ways(ways[1]);
    sub_end(sub);
}

SCENARIO(across_interpreters, "Each Release attaches again exactly what was attached before, across interpreters and dialects")
{
    py_init();
    check_across(sub_new());
    py_finalize();
}

// pythons: >=3.12
SCENARIO(across_gils, "Each Release attaches again exactly what was attached before, across GILs and dialects")
{
    py_init();
    check_across(sub_new_isolated());
    py_finalize();
}

/* --- Daemon-ness ------------------------------------------------------------------------------------ */

static void ask_at_each_level(void *argument)
{
    struct ways *ways = argument;
    /* The plain Ensure of the accepted API does not hold the interpreter. */
    PyThreadStateToken *token = ensure(ways->guard);
    CHECK_INT(draft_get_daemon(), 1);
    draft_ensure(ways->ref);
    CHECK_INT(draft_get_daemon(), 0);
    PyThreadStateToken *inner = ensure(ways->guard);
    CHECK_INT(draft_get_daemon(), 0);
    PyThreadState_Release(inner);
    draft_release();
    CHECK_INT(draft_get_daemon(), 1);
    PyThreadState_Release(token);
}

SCENARIO(daemon_at_each_level, "A thread state is non-daemon inside an Ensure of the draft, and no longer, whatever is around it")
{
    py_init();
    struct ways ways = ways_here();
    py_thread_join(thread_start(ask_at_each_level, &ways));
    close_ways(ways);
    py_finalize();
}

static void work_without_the_guard(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    CHECK_INT(draft_set_daemon(0), 0);
    PyInterpreterGuard_Close(guard);
    event_set(&inside);
    py_event_wait(&exiting);
    for (int i = 0; i < 50; i++) {
        run("x = sum(range(100))");
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    log_event("worked");
    PyThreadState_Release(token);
}

SCENARIO(non_daemon_inside_a_guards_ensure,
         "PyThreadState_SetDaemon(0) inside an Ensure of the accepted API holds the interpreter until the "
         "Release, without the guard")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    pthread_t thread = thread_start(work_without_the_guard, guard);
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}
