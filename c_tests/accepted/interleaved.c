/* Ensures of one thread that are released in another order than the reverse one, as two greenlets or coroutines of
 * the thread do. Where they all have the same thread state, the order carries no meaning. */

#include "handles.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;

SCENARIO(over_an_attached_thread_state, "The Ensures of an attached thread may be released in any order")
{
    static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(guard != NULL && view != NULL);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        PyThreadStateToken *tokens[] = {ensure(guard), ensure_from_view(view), ensure(guard)};
        for (int j = 0; j < 3; j++) {
            PyThreadState_Release(tokens[orders[i][j]]);
            CHECK_PTR(PyThreadState_Get(), own);
            run("x = 1");
        }
    }
    PyInterpreterView_Close(view);
    PyInterpreterGuard_Close(guard);
    /* Would hang if one still held the interpreter. */
    py_finalize();
}

static void in_a_new_thread(void *guard)
{
    PyThreadStateToken *outermost = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    PyThreadStateToken *first = ensure(guard);
    PyThreadStateToken *second = ensure(guard);
    PyThreadState_Release(first);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadStateToken *third = ensure(guard);
    PyThreadState_Release(second);
    CHECK_PTR(PyThreadState_Get(), state);
    run("x = 1");
    PyThreadState_Release(third);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(outermost);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(inside_another, "Inside the Ensure that attached a thread, others may be released in any order")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    py_thread_join(thread_start(in_a_new_thread, guard));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void hold_with_the_second(void *view)
{
    PyGILState_Ensure();
    PyThreadStateToken *first = ensure_from_view(view);
    PyThreadStateToken *second = ensure_from_view(view);
    PyThreadState_Release(first);
    event_set(&inside);
    py_event_wait(&exiting);
    run("x = sum(range(1000))");
    log_event("worked");
    PyThreadState_Release(second);
    /* Not PyGILState_Release: nothing holds the interpreter any more. */
    PyEval_SaveThread();
}

SCENARIO(each_holds_until_its_own_release, "Of two Ensures by a view, that one holds the interpreter that is not released yet")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    pthread_t thread = thread_start(hold_with_the_second, view);
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
    PyInterpreterView_Close(view);
}

static void interleave_for_long(void *view)
{
    PyThreadStateToken *outermost = ensure_from_view(view);
    PyThreadStateToken *earlier = ensure_from_view(view);
    for (int i = 0; i < 1000; i++) {
        PyThreadStateToken *later = ensure_from_view(view);
        PyThreadState_Release(earlier);
        earlier = later;
    }
    PyThreadState_Release(earlier);
    PyThreadState_Release(outermost);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(a_chain, "A thread may always ensure again before it releases, and keeps nothing after the last Release")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    py_thread_join(thread_start(interleave_for_long, view));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterView_Close(view);
    py_finalize();
}
