/* PyThreadState_Release: the wrong token, in the wrong thread, with the wrong thread state. */

#include "handles.h"

static event ready = EVENT_INIT;
static event never = EVENT_INIT;

/* Anything, as long as nobody was given it as a token. */
static int something;

/* --- Too many -------------------------------------------------------------------------------------- */

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(without_any_ensure, "A Release without an Ensure is a fatal error, attached")
{
    py_init();
    PyThreadState_Release(&something);
}

static void release_something(void *unused)
{
    (void)unused;
    PyThreadState_Release(&something);
    _exit(0);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(without_any_ensure_detached, "A Release without an Ensure is a fatal error, detached")
{
    py_init();
    py_thread_join(thread_start(release_something, NULL));
}

static void release_a_gilstate(void *unused)
{
    (void)unused;
    PyGILState_Ensure();
    PyThreadState_Release(&something);
    _exit(0);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(of_a_gilstate_ensure, "PyGILState_Ensure is not undone by PyThreadState_Release")
{
    py_init();
    py_thread_join(thread_start(release_a_gilstate, NULL));
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many, "One Release too many is a fatal error, with the thread's own state attached")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *outer = ensure(guard);
    PyThreadStateToken *inner = ensure(guard);
    PyThreadState_Release(inner);
    PyThreadState_Release(outer);
    PyThreadState_Release(outer);
}

static void release_twice(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyThreadState_Release(token);
    PyThreadState_Release(token);
    _exit(0);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many_in_a_thread, "One Release too many is a fatal error, with the thread state gone")
{
    py_init();
    py_thread_join(thread_start(release_twice, guard_here()));
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(one_too_many_from_view, "One Release too many of EnsureFromView is a fatal error")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    PyThreadState_Release(token);
}

/* --- The wrong token --------------------------------------------------------------------------------- */

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(outer_token_first, "Tokens of different thread states are released in reverse order")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterGuard *guard_of_sub = guard_here();
    swap(sub, own);
    PyThreadStateToken *outer = ensure(guard_here());
    ensure(guard_of_sub);
    PyThreadState_Release(outer);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(outer_token_first_from_view, "An Ensure is not released before a later one that had to attach")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyThreadStateToken *outer = PyThreadState_EnsureFromView(view);
    PyEval_SaveThread();
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(outer != NULL && inner != NULL);
    PyThreadState_Release(outer);
}

static void release_the_one_that_attached(void *guard)
{
    PyThreadStateToken *outer = ensure(guard);
    ensure(guard);
    PyThreadState_Release(outer);
    _exit(0);
}

// native: no, it detaches the thread inside the other
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(outer_token_that_attached, "The Ensure that attached a thread is not released before a later one")
{
    py_init();
    py_thread_join(thread_start(release_the_one_that_attached, guard_here()));
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(inner_token_twice, "The token of an Ensure that was released does not release the one around it")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    ensure(guard);
    PyThreadStateToken *inner = ensure(guard);
    PyThreadState_Release(inner);
    PyThreadState_Release(inner);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(token_of_an_earlier_ensure, "The token of an Ensure that was released does not release the next one")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *earlier = ensure(guard);
    PyThreadState_Release(earlier);
    ensure(guard);
    PyThreadState_Release(earlier);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(null_token, "NULL, what an Ensure returns that failed, is no token")
{
    py_init();
    ensure(guard_here());
    PyThreadState_Release(NULL);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(garbage_token, "What no Ensure returned is no token")
{
    py_init();
    ensure(guard_here());
    PyThreadState_Release(&something);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(guard_as_a_token, "The guard is not the token")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    ensure(guard);
    PyThreadState_Release(guard);
}

static PyInterpreterGuard *shared_guard;
static PyThreadStateToken *shared_token;

static void share_a_token(void *unused)
{
    (void)unused;
    shared_token = ensure(shared_guard);
    Py_BEGIN_ALLOW_THREADS
    event_set(&ready);
    event_wait(&never);
    Py_END_ALLOW_THREADS
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(token_of_another_thread, "A token is released in its own thread, not in another one's Ensure")
{
    py_init();
    shared_guard = guard_here();
    thread_start(share_a_token, NULL);
    py_event_wait(&ready);
    ensure(shared_guard);
    PyThreadState_Release(shared_token);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(token_of_another_thread_without_an_ensure, "A token is released in its own thread, not in one without an Ensure")
{
    py_init();
    shared_guard = guard_here();
    thread_start(share_a_token, NULL);
    py_event_wait(&ready);
    PyThreadState_Release(shared_token);
}

/* --- The wrong thread state --------------------------------------------------------------------------- */

static void release_detached(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyEval_SaveThread();
    PyThreadState_Release(token);
    _exit(0);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached, "A Release without an attached thread state is a fatal error: nobody has the GIL")
{
    py_init();
    py_thread_join(thread_start(release_detached, guard_here()));
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached_in_the_main_thread, "A Release without an attached thread state is a fatal error in the main thread")
{
    py_init();
    release_detached(guard_here());
}

static event held = EVENT_INIT;

static void release_while_another_runs(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyEval_SaveThread();
    event_set(&ready);
    event_wait(&held);
    PyThreadState_Release(token);
    _exit(0);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(detached_while_another_has_the_gil,
         "A Release without an attached thread state is a fatal error: another thread has the GIL")
{
    py_init();
    thread_start(release_while_another_runs, guard_here());
    py_event_wait(&ready);
    /* Has the GIL, and keeps it. */
    event_set(&held);
    event_wait(&never);
}

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(attached_to_another_interpreter, "A Release needs the thread state of its Ensure, not one of another interpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyThreadStateToken *token = ensure(guard_here());
    swap(PyThreadState_Get(), sub);
    PyThreadState_Release(token);
}

/* A debug build up to 3.11 does not allow the second thread state. */
// pythons: release
// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(attached_to_another_thread_state, "A Release needs the thread state of its Ensure, not another one of the interpreter")
{
    py_init();
    PyThreadState *other = PyThreadState_New(PyInterpreterState_Get());
    PyThreadStateToken *token = ensure(guard_here());
    swap(PyThreadState_Get(), other);
    PyThreadState_Release(token);
}

static void release_the_outer_state(void *guard)
{
    PyGILState_Ensure();
    PyThreadState *outer = PyEval_SaveThread();
    PyThreadState *sub = PyThreadState_New(PyThreadState_GetInterpreter(outer));
    PyEval_RestoreThread(sub);
    PyThreadStateToken *token = ensure(guard);
    PyThreadState_Swap(outer);
    PyThreadState_Release(token);
    _exit(0);
}

/* Before 3.12 a thread cannot have two thread states of one interpreter, as far as PyGILState goes. */
// pythons: >=3.12
// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "is not attached"
SCENARIO(attached_to_the_threads_usual_state, "A Release needs the thread state of its Ensure, not the thread's usual one")
{
    py_init();
    py_thread_join(thread_start(release_the_outer_state, guard_here()));
}
