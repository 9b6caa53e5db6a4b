/* Handles passed for one another through casts, to functions of the draft. */
// sources: _guards.c

#define API_DRAFT
#include "harness.h"

#include "_other_handles.h"

static void *own_ref(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

static void *own_weak_ref(void)
{
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    return wref;
}

/* --- PyInterpreterRef_AsInterpreter ------------------------------------------------------------ */

// expect: fatal PyInterpreterRef_AsInterpreter "takes a PyInterpreterRef"
SCENARIO(guard_given_to_as_interpreter, "A guard is not taken for a strong reference: PyInterpreterRef_AsInterpreter")
{
    py_init();
    PyInterpreterRef_AsInterpreter(new_guard());
}

// expect: fatal PyInterpreterRef_AsInterpreter "takes a PyInterpreterRef"
SCENARIO(view_given_to_as_interpreter, "A view is not taken for a strong reference: PyInterpreterRef_AsInterpreter")
{
    py_init();
    PyInterpreterRef_AsInterpreter(new_view());
}

// expect: fatal PyInterpreterRef_AsInterpreter "takes a PyInterpreterRef"
SCENARIO(weak_ref_given_to_as_interpreter, "A weak reference is not taken for a strong reference: PyInterpreterRef_AsInterpreter")
{
    py_init();
    PyInterpreterRef_AsInterpreter(own_weak_ref());
}

/* --- PyInterpreterRef_Dup ---------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_Dup "takes a PyInterpreterRef"
SCENARIO(guard_given_to_ref_dup, "A guard is not taken for a strong reference: PyInterpreterRef_Dup")
{
    py_init();
    PyInterpreterRef_Dup(new_guard());
}

// expect: fatal PyInterpreterRef_Dup "takes a PyInterpreterRef"
SCENARIO(view_given_to_ref_dup, "A view is not taken for a strong reference: PyInterpreterRef_Dup")
{
    py_init();
    PyInterpreterRef_Dup(new_view());
}

// expect: fatal PyInterpreterRef_Dup "takes a PyInterpreterRef"
SCENARIO(weak_ref_given_to_ref_dup, "A weak reference is not taken for a strong reference: PyInterpreterRef_Dup")
{
    py_init();
    PyInterpreterRef_Dup(own_weak_ref());
}

/* --- PyInterpreterRef_Close -------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_Close "takes a PyInterpreterRef"
SCENARIO(guard_given_to_ref_close, "A guard is not taken for a strong reference: PyInterpreterRef_Close")
{
    py_init();
    PyInterpreterRef_Close(new_guard());
}

// expect: fatal PyInterpreterRef_Close "takes a PyInterpreterRef"
SCENARIO(view_given_to_ref_close, "A view is not taken for a strong reference: PyInterpreterRef_Close")
{
    py_init();
    PyInterpreterRef_Close(new_view());
}

// expect: fatal PyInterpreterRef_Close "takes a PyInterpreterRef"
SCENARIO(weak_ref_given_to_ref_close, "A weak reference is not taken for a strong reference: PyInterpreterRef_Close")
{
    py_init();
    PyInterpreterRef_Close(own_weak_ref());
}

/* --- PyThreadState_Ensure ---------------------------------------------------------------------- */

// expect: fatal PyThreadState_Ensure "takes a "
SCENARIO(view_given_to_ensure, "A view is not taken for a strong reference: PyThreadState_Ensure")
{
    py_init();
    PyThreadState_Ensure(new_view());
}

// expect: fatal PyThreadState_Ensure "takes a "
SCENARIO(weak_ref_given_to_ensure, "A weak reference is not taken for a strong reference: PyThreadState_Ensure")
{
    py_init();
    PyThreadState_Ensure(own_weak_ref());
}

/* --- Pep788_Ensure ----------------------------------------------------------------------------- */

// expect: fatal PyThreadState_Ensure "takes a PyInterpreterRef"
SCENARIO(guard_given_to_its_twin, "A guard is not taken for a strong reference: Pep788_Ensure")
{
    py_init();
    Pep788_Ensure(new_guard());
}

// expect: fatal PyThreadState_Ensure "takes a PyInterpreterRef"
SCENARIO(view_given_to_its_twin, "A view is not taken for a strong reference: Pep788_Ensure")
{
    py_init();
    Pep788_Ensure(new_view());
}

// expect: fatal PyThreadState_Ensure "takes a PyInterpreterRef"
SCENARIO(weak_ref_given_to_its_twin, "A weak reference is not taken for a strong reference: Pep788_Ensure")
{
    py_init();
    Pep788_Ensure(own_weak_ref());
}

/* --- Pep788_EnsureStealing --------------------------------------------------------------------- */

// expect: fatal Pep788_EnsureStealing "takes a PyInterpreterRef"
SCENARIO(guard_given_to_ensure_stealing, "A guard is not taken for a strong reference: Pep788_EnsureStealing")
{
    py_init();
    Pep788_EnsureStealing(new_guard());
}

// expect: fatal Pep788_EnsureStealing "takes a PyInterpreterRef"
SCENARIO(view_given_to_ensure_stealing, "A view is not taken for a strong reference: Pep788_EnsureStealing")
{
    py_init();
    Pep788_EnsureStealing(new_view());
}

// expect: fatal Pep788_EnsureStealing "takes a PyInterpreterRef"
SCENARIO(weak_ref_given_to_ensure_stealing, "A weak reference is not taken for a strong reference: Pep788_EnsureStealing")
{
    py_init();
    Pep788_EnsureStealing(own_weak_ref());
}

/* --- PyInterpreterWeakRef_Dup ------------------------------------------------------------------ */

// expect: fatal PyInterpreterWeakRef_Dup "takes a PyInterpreterWeakRef"
SCENARIO(guard_given_to_weak_ref_dup, "A guard is not taken for a weak reference: PyInterpreterWeakRef_Dup")
{
    py_init();
    PyInterpreterWeakRef_Dup(new_guard());
}

// expect: fatal PyInterpreterWeakRef_Dup "takes a PyInterpreterWeakRef"
SCENARIO(view_given_to_weak_ref_dup, "A view is not taken for a weak reference: PyInterpreterWeakRef_Dup")
{
    py_init();
    PyInterpreterWeakRef_Dup(new_view());
}

// expect: fatal PyInterpreterWeakRef_Dup "takes a PyInterpreterWeakRef"
SCENARIO(ref_given_to_weak_ref_dup, "A strong reference is not taken for a weak reference: PyInterpreterWeakRef_Dup")
{
    py_init();
    PyInterpreterWeakRef_Dup(own_ref());
}

/* --- PyInterpreterWeakRef_AsStrong ------------------------------------------------------------- */

// expect: fatal PyInterpreterWeakRef_AsStrong "takes a PyInterpreterWeakRef"
SCENARIO(guard_given_to_as_strong, "A guard is not taken for a weak reference: PyInterpreterWeakRef_AsStrong")
{
    py_init();
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(new_guard(), &ref);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "takes a PyInterpreterWeakRef"
SCENARIO(view_given_to_as_strong, "A view is not taken for a weak reference: PyInterpreterWeakRef_AsStrong")
{
    py_init();
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(new_view(), &ref);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "takes a PyInterpreterWeakRef"
SCENARIO(ref_given_to_as_strong, "A strong reference is not taken for a weak reference: PyInterpreterWeakRef_AsStrong")
{
    py_init();
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(own_ref(), &ref);
}

/* --- PyInterpreterWeakRef_Close ---------------------------------------------------------------- */

// expect: fatal PyInterpreterWeakRef_Close "takes a PyInterpreterWeakRef"
SCENARIO(guard_given_to_weak_ref_close, "A guard is not taken for a weak reference: PyInterpreterWeakRef_Close")
{
    py_init();
    PyInterpreterWeakRef_Close(new_guard());
}

// expect: fatal PyInterpreterWeakRef_Close "takes a PyInterpreterWeakRef"
SCENARIO(view_given_to_weak_ref_close, "A view is not taken for a weak reference: PyInterpreterWeakRef_Close")
{
    py_init();
    PyInterpreterWeakRef_Close(new_view());
}

// expect: fatal PyInterpreterWeakRef_Close "takes a PyInterpreterWeakRef"
SCENARIO(ref_given_to_weak_ref_close, "A strong reference is not taken for a weak reference: PyInterpreterWeakRef_Close")
{
    py_init();
    PyInterpreterWeakRef_Close(own_ref());
}

/* A guard given to PyThreadState_Ensure is nothing to notice: the accepted API's has the same name,
 * and is what the library takes this for. */

/* --- PyThreadState_Release ---------------------------------------------------------------------- */

// native: no, the accepted Ensure is the interpreter's own
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(release_of_a_guards_ensure, "An Ensure of the accepted API is not undone by the draft's Release")
{
    py_init();
    ensure_with_a_guard(new_guard());
    Pep788_Release();
}

// native: no, the accepted Ensure is the interpreter's own
// expect: fatal PyThreadState_Release "not that of this thread's most recent Ensure"
SCENARIO(release_past_a_guards_ensure, "The draft's Release does not reach an Ensure around one of the accepted API")
{
    py_init();
    CHECK_INT(PyThreadState_Ensure(own_ref()), 0);
    ensure_with_a_guard(new_guard());
    Pep788_Release();
}
