/* The accepted API, for programs in the draft dialect. */

#include "harness.h"

#include "_other_handles.h"

void *new_guard(void)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    return guard;
}

void *new_view(void)
{
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    return view;
}

void *ensure_with_a_guard(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    return token;
}
