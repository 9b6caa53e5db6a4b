/* Handles passed for one another through casts, to functions of the accepted API. */
// sources: _refs.c

#include "handles.h"

#include "_other_handles.h"

static void *own_guard(void)
{
    /* A guard says where it is counted. */
    PyInterpreterView *view = view_here();
    count_apart(view);
    PyInterpreterView_Close(view);
    return guard_here();
}

static void *own_view(void)
{
    return view_here();
}

/* --- PyInterpreterGuard_Close ------------------------------------------------------------------ */

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "was given a PyInterpreterView"
SCENARIO(view_given_to_guard_close, "A view is not taken for a guard: PyInterpreterGuard_Close")
{
    py_init();
    PyInterpreterGuard_Close(own_view());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "was given a PyInterpreterRef"
SCENARIO(ref_given_to_guard_close, "A strong reference is not taken for a guard: PyInterpreterGuard_Close")
{
    py_init();
    PyInterpreterGuard_Close(new_ref());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "was given a PyInterpreterWeakRef"
SCENARIO(weak_ref_given_to_guard_close, "A weak reference is not taken for a guard: PyInterpreterGuard_Close")
{
    py_init();
    PyInterpreterGuard_Close(new_weak_ref());
}

/* --- PyInterpreterGuard_FromView --------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "was given a PyInterpreterGuard"
SCENARIO(guard_given_to_guard_from_view, "A guard is not taken for a view: PyInterpreterGuard_FromView")
{
    py_init();
    PyInterpreterGuard_FromView(own_guard());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "was given a PyInterpreterRef"
SCENARIO(ref_given_to_guard_from_view, "A strong reference is not taken for a view: PyInterpreterGuard_FromView")
{
    py_init();
    PyInterpreterGuard_FromView(new_ref());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "was given a PyInterpreterWeakRef"
SCENARIO(weak_ref_given_to_guard_from_view, "A weak reference is not taken for a view: PyInterpreterGuard_FromView")
{
    py_init();
    PyInterpreterGuard_FromView(new_weak_ref());
}

/* --- PyInterpreterView_Close ------------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "was given a PyInterpreterGuard"
SCENARIO(guard_given_to_view_close, "A guard is not taken for a view: PyInterpreterView_Close")
{
    py_init();
    PyInterpreterView_Close(own_guard());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "was given a PyInterpreterRef"
SCENARIO(ref_given_to_view_close, "A strong reference is not taken for a view: PyInterpreterView_Close")
{
    py_init();
    PyInterpreterView_Close(new_ref());
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "was given a PyInterpreterWeakRef"
SCENARIO(weak_ref_given_to_view_close, "A weak reference is not taken for a view: PyInterpreterView_Close")
{
    py_init();
    PyInterpreterView_Close(new_weak_ref());
}

/* --- PyThreadState_Ensure ---------------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "was given a PyInterpreterView"
SCENARIO(view_given_to_ensure, "A view is not taken for a guard: PyThreadState_Ensure")
{
    py_init();
    PyThreadState_Ensure(own_view());
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "was given a PyInterpreterWeakRef"
SCENARIO(weak_ref_given_to_ensure, "A weak reference is not taken for a guard: PyThreadState_Ensure")
{
    py_init();
    PyThreadState_Ensure(new_weak_ref());
}

/* --- PyThreadState_EnsureFromView -------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "was given a PyInterpreterGuard"
SCENARIO(guard_given_to_ensure_from_view, "A guard is not taken for a view: PyThreadState_EnsureFromView")
{
    py_init();
    PyThreadState_EnsureFromView(own_guard());
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "was given a PyInterpreterRef"
SCENARIO(ref_given_to_ensure_from_view, "A strong reference is not taken for a view: PyThreadState_EnsureFromView")
{
    py_init();
    PyThreadState_EnsureFromView(new_ref());
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "was given a PyInterpreterWeakRef"
SCENARIO(weak_ref_given_to_ensure_from_view, "A weak reference is not taken for a view: PyThreadState_EnsureFromView")
{
    py_init();
    PyThreadState_EnsureFromView(new_weak_ref());
}

/* A strong reference given to PyThreadState_Ensure is nothing to notice: the draft's Ensure has the
 * same name, and is what the library takes this for. */

/* --- PyThreadState_Release ---------------------------------------------------------------------- */

// native: no, its Release trusts its callers
// expect: fatal PyThreadState_Release "no Ensure to release"
SCENARIO(release_after_a_draft_release, "An Ensure of the draft has one Release, whichever dialect that speaks")
{
    py_init();
    int not_a_token;
    ensure_with_a_ref(new_ref());
    PyThreadState_Release(&not_a_token);
    PyThreadState_Release(&not_a_token);
}
