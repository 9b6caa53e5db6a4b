/* Guards, views and tokens of the accepted API, or the scenario fails. For files that need several of them. */

#ifndef HANDLES_H
#define HANDLES_H

#include "harness.h"

__attribute__((unused))
static PyInterpreterGuard *guard_here(void)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    return guard;
}

__attribute__((unused))
static PyInterpreterView *view_here(void)
{
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    return view;
}

/* Of the interpreter of a thread state, which may be the attached one. */
__attribute__((unused))
static PyInterpreterGuard *guard_of(PyThreadState *state)
{
    PyThreadState *caller = PyThreadState_Get();
    if (state == caller) {
        return guard_here();
    }
    swap(caller, state);
    PyInterpreterGuard *guard = guard_here();
    swap(state, caller);
    return guard;
}

/* Of another interpreter. */
__attribute__((unused))
static PyInterpreterView *view_of(PyThreadState *state)
{
    PyThreadState *caller = PyThreadState_Get();
    swap(caller, state);
    PyInterpreterView *view = view_here();
    swap(state, caller);
    return view;
}

__attribute__((unused))
static PyThreadStateToken *ensure(PyInterpreterGuard *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    return token;
}

__attribute__((unused))
static PyThreadStateToken *ensure_from_view(PyInterpreterView *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    return token;
}

/* From now on each thread counts its guards apart. The library begins to do so when it has seen a thread attach. */
__attribute__((unused))
static void count_apart(PyInterpreterView *view)
{
    PyThreadState_Release(ensure_from_view(view));
}

#endif
