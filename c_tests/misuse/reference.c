/* References of the draft that are not there: zero, closed before, never made; and a NULL where a
 * place for one is required. */

#define API_DRAFT
#include "harness.h"

static PyInterpreterRef ref_here(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

static PyInterpreterWeakRef wref_here(void)
{
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    return wref;
}

static PyInterpreterRef ref_of(PyThreadState *sub)
{
    PyThreadState *own = PyThreadState_Get();
    swap(own, sub);
    PyInterpreterRef ref = ref_here();
    swap(sub, own);
    return ref;
}

static PyInterpreterWeakRef wref_of(PyThreadState *sub)
{
    PyThreadState *own = PyThreadState_Get();
    swap(own, sub);
    PyInterpreterWeakRef wref = wref_here();
    swap(sub, own);
    return wref;
}

/* A reference that was closed, with no other out. */
static PyInterpreterRef closed_ref(void)
{
    PyInterpreterRef ref = ref_here();
    PyInterpreterRef_Close(ref);
    return ref;
}

/* --- Zero ---------------------------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_AsInterpreter "the PyInterpreterRef is NULL"
SCENARIO(zero_as_interpreter, "Zero is no reference: PyInterpreterRef_AsInterpreter says so")
{
    py_init();
    PyInterpreterRef_AsInterpreter(0);
}

// expect: fatal PyInterpreterRef_Dup "the PyInterpreterRef is NULL"
SCENARIO(zero_dup, "Zero is no reference: PyInterpreterRef_Dup says so")
{
    py_init();
    PyInterpreterRef_Dup(0);
}

// expect: fatal PyInterpreterRef_Close "the PyInterpreterRef is NULL"
SCENARIO(zero_close, "Zero is no reference: PyInterpreterRef_Close says so")
{
    py_init();
    PyInterpreterRef_Close(0);
}

// expect: fatal PyInterpreterWeakRef_Dup "the PyInterpreterWeakRef is NULL"
SCENARIO(zero_weak_dup, "Zero is no weak reference: PyInterpreterWeakRef_Dup says so")
{
    py_init();
    PyInterpreterWeakRef_Dup(0);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "the PyInterpreterWeakRef is NULL"
SCENARIO(zero_weak_as_strong, "Zero is no weak reference: PyInterpreterWeakRef_AsStrong says so")
{
    py_init();
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(0, &ref);
}

// expect: fatal PyInterpreterWeakRef_Close "the PyInterpreterWeakRef is NULL"
SCENARIO(zero_weak_close, "Zero is no weak reference: PyInterpreterWeakRef_Close says so")
{
    py_init();
    PyInterpreterWeakRef_Close(0);
}

/* Both dialects have a PyThreadState_Ensure, and zero does not tell which was meant. */
// expect: fatal PyThreadState_Ensure "NULL"
SCENARIO(zero_ensure, "Zero is no reference: PyThreadState_Ensure says so")
{
    py_init();
    PyThreadState_Ensure(0);
}

// expect: fatal PyThreadState_Ensure "the PyInterpreterRef is NULL"
SCENARIO(zero_ensure_by_its_other_name, "Zero is no reference: Pep788_Ensure says so")
{
    py_init();
    Pep788_Ensure(0);
}

// expect: fatal Pep788_EnsureStealing "the PyInterpreterRef is NULL"
SCENARIO(zero_ensure_stealing, "Zero is no reference: Pep788_EnsureStealing says so")
{
    py_init();
    Pep788_EnsureStealing(0);
}

/* --- No place for the reference -------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_Main "the place for the PyInterpreterRef is NULL"
SCENARIO(no_place_main, "PyInterpreterRef_Main needs a place for the reference")
{
    py_init();
    PyInterpreterRef_Main(NULL);
}

// expect: fatal PyInterpreterRef_Main "the place for the PyInterpreterRef is NULL"
SCENARIO(no_place_main_without_python, "PyInterpreterRef_Main needs a place also where it would fail")
{
    PyInterpreterRef_Main(NULL);
}

// expect: fatal PyInterpreterState_AsStrong "the place for the PyInterpreterRef is NULL"
SCENARIO(no_place_as_strong, "PyInterpreterState_AsStrong needs a place for the reference")
{
    py_init();
    PyInterpreterState_AsStrong(PyInterpreterState_Get(), NULL);
}

// expect: fatal PyInterpreterState_AsStrong "the place for the PyInterpreterRef is NULL"
SCENARIO(no_place_as_strong_of_nothing, "PyInterpreterState_AsStrong needs a place also where it would fail")
{
    py_init();
    PyInterpreterState_AsStrong(NULL, NULL);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "the place for the PyInterpreterRef is NULL"
SCENARIO(no_place_weak_as_strong, "PyInterpreterWeakRef_AsStrong needs a place for the reference")
{
    py_init();
    PyInterpreterWeakRef_AsStrong(wref_here(), NULL);
}

/* --- Closed twice ---------------------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_Close "closed already"
SCENARIO(ref_closed_twice, "A reference is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyInterpreterRef_Close(closed_ref());
}

// expect: fatal PyInterpreterRef_Close "closed already"
SCENARIO(dup_closed_twice, "A Dup counts once")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    PyInterpreterRef another = PyInterpreterRef_Dup(ref);
    PyInterpreterRef_Close(ref);
    PyInterpreterRef_Close(another);
    PyInterpreterRef_Close(another);
}

// expect: fatal PyInterpreterRef_Close "closed already"
SCENARIO(ref_of_main_closed_twice, "A reference of PyInterpreterRef_Main is closed once")
{
    py_init();
    PyInterpreterRef ref;
    CHECK_INT(PyInterpreterRef_Main(&ref), 0);
    PyInterpreterRef_Close(ref);
    PyInterpreterRef_Close(ref);
}

// expect: fatal PyInterpreterRef_Close "closed"
SCENARIO(ref_closed_twice_after_the_end, "A reference that was closed is not closed again after Py_FinalizeEx")
{
    py_init();
    PyInterpreterRef ref = closed_ref();
    py_finalize();
    PyInterpreterRef_Close(ref);
}

// expect: fatal PyInterpreterRef_Close "closed"
SCENARIO(ref_closed_twice_in_the_next_run,
         "A reference of an earlier run of the runtime is none of the next one, whatever is out there")
{
    py_init();
    PyInterpreterRef ref = closed_ref();
    py_finalize();
    py_init();
    ref_here();
    PyInterpreterRef_Close(ref);
}

// expect: fatal PyInterpreterRef_Close "closed"
SCENARIO(ref_of_a_subinterpreter_closed_twice, "A reference is not closed again after Py_EndInterpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    PyInterpreterRef_Close(ref);
}

// expect: fatal PyInterpreterRef_Close "closed"
SCENARIO(ref_closed_twice_in_anothers_place,
         "A reference to an interpreter that is gone is none to the one that came after it")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    ref_of(sub_new());
    PyInterpreterRef_Close(ref);
}

// expect: fatal PyInterpreterRef_Close "closed already"
SCENARIO(stolen_ref_closed, "A reference that Pep788_EnsureStealing consumed is not closed")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
}

/* Then the reference that is missing is the Ensure's own. */
// expect: fatal PyThreadState_Release "closed more often than it was taken"
SCENARIO(stolen_ref_closed_inside, "A reference closed that Pep788_EnsureStealing has is missed by its Release")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    PyInterpreterRef_Close(ref);
    PyThreadState_Release();
}

/* What the Ensure holds by itself is not taken for it. */
// expect: fatal PyInterpreterRef_Close "closed already"
SCENARIO(ref_closed_twice_inside_an_ensure, "A reference closed twice is seen inside an Ensure too")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    PyInterpreterRef_Close(ref);
    PyThreadState_Release();
}

// expect: fatal PyInterpreterWeakRef_Close "closed already"
SCENARIO(wref_closed_twice, "A weak reference is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyInterpreterWeakRef wref = wref_here();
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterWeakRef_Close(wref);
}

// expect: fatal PyInterpreterWeakRef_Close "closed"
SCENARIO(wref_closed_twice_after_the_end, "A weak reference that was closed is not closed again after Py_FinalizeEx")
{
    py_init();
    PyInterpreterWeakRef wref = wref_here();
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
    PyInterpreterWeakRef_Close(wref);
}

// expect: fatal PyInterpreterWeakRef_Close "closed already"
SCENARIO(wref_of_a_subinterpreter_closed_twice,
         "A weak reference to a subinterpreter is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterWeakRef_Close(wref);
}

// expect: fatal PyInterpreterWeakRef_Close "closed already"
SCENARIO(weak_dup_closed_twice, "A Dup of a weak reference counts once")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    PyInterpreterWeakRef another = PyInterpreterWeakRef_Dup(wref);
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterWeakRef_Close(another);
    PyInterpreterWeakRef_Close(another);
}

// expect: fatal PyInterpreterWeakRef_Close "closed"
SCENARIO(wref_of_a_subinterpreter_closed_twice_after_the_end, "A weak reference is not closed again after Py_EndInterpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    sub_end(sub);
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterWeakRef_Close(wref);
}

// expect: fatal PyInterpreterWeakRef_Close "closed"
SCENARIO(wref_closed_twice_in_anothers_place,
         "A weak reference to an interpreter that is gone is none to the one that came after it")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    PyInterpreterWeakRef_Close(wref);
    sub_end(sub);
    wref_of(sub_new());
    PyInterpreterWeakRef_Close(wref);
}

/* --- Used after it was closed --------------------------------------------------------------------- */

// expect: fatal PyThreadState_Ensure "closed already"
SCENARIO(ensure_with_a_closed_ref, "A closed reference lets nobody in")
{
    py_init();
    PyThreadState_Ensure(closed_ref());
}

// expect: fatal PyThreadState_Ensure "closed"
SCENARIO(ensure_with_a_closed_ref_after_the_end, "A closed reference lets nobody in after Py_FinalizeEx either")
{
    py_init();
    PyInterpreterRef ref = closed_ref();
    py_finalize();
    PyThreadState_Ensure(ref);
}

// expect: fatal PyThreadState_Ensure "closed"
SCENARIO(ensure_with_a_closed_ref_of_a_subinterpreter, "A closed reference lets nobody in after Py_EndInterpreter either")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = ref_of(sub);
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    ref_of(sub_new());
    PyThreadState_Ensure(ref);
}

// expect: fatal Pep788_EnsureStealing "closed already"
SCENARIO(steal_a_closed_ref, "A closed reference is not there to be consumed")
{
    py_init();
    Pep788_EnsureStealing(closed_ref());
}

// expect: fatal Pep788_EnsureStealing "closed already"
SCENARIO(steal_twice, "A reference is consumed once")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    CHECK_INT(Pep788_EnsureStealing(ref), 0);
    PyThreadState_Release();
    Pep788_EnsureStealing(ref);
}

// expect: fatal PyInterpreterRef_Dup "closed already"
SCENARIO(dup_of_a_closed_ref, "A closed reference has no Dup")
{
    py_init();
    PyInterpreterRef_Dup(closed_ref());
}

// expect: fatal PyInterpreterRef_Dup "closed"
SCENARIO(dup_of_a_closed_ref_after_the_end, "A closed reference has no Dup after Py_FinalizeEx either")
{
    py_init();
    PyInterpreterRef ref = closed_ref();
    py_finalize();
    PyInterpreterRef_Dup(ref);
}

// expect: fatal PyInterpreterRef_AsInterpreter "closed already"
SCENARIO(interpreter_of_a_closed_ref, "A closed reference keeps no interpreter to be asked for")
{
    py_init();
    PyInterpreterRef_AsInterpreter(closed_ref());
}

// expect: fatal PyInterpreterRef_AsInterpreter "closed"
SCENARIO(interpreter_of_a_closed_ref_after_the_end, "A closed reference has no interpreter after Py_FinalizeEx")
{
    py_init();
    PyInterpreterRef ref = closed_ref();
    py_finalize();
    PyInterpreterRef_AsInterpreter(ref);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "closed"
SCENARIO(promote_a_closed_wref, "A closed weak reference to an interpreter that is gone is no way to another one")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    PyInterpreterWeakRef_Close(wref);
    sub_end(sub);
    wref_of(sub_new());
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(wref, &ref);
}

// expect: fatal PyInterpreterWeakRef_Dup "closed"
SCENARIO(dup_of_a_closed_wref, "A closed weak reference to an interpreter that is gone has no Dup")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterWeakRef wref = wref_of(sub);
    PyInterpreterWeakRef_Close(wref);
    sub_end(sub);
    PyInterpreterWeakRef_Dup(wref);
}

/* --- Never made ----------------------------------------------------------------------------------- */

/* Readable memory with nothing of ours in it, at an address like that of a handle. */
static void *memory_like(void *handle)
{
    static _Alignas(4096) char memory[8192];
    return memory + 4096 + (uintptr_t)handle % 1024;
}

// expect: fatal PyInterpreterRef_Close "not a PyInterpreterRef"
SCENARIO(memory_as_a_ref_to_close, "Memory that is not a reference is not closed")
{
    py_init();
    PyInterpreterRef_Close(memory_like(ref_here()));
}

// expect: fatal PyInterpreterRef_Dup "not a PyInterpreterRef"
SCENARIO(memory_as_a_ref_to_dup, "Memory that is not a reference has no Dup")
{
    py_init();
    PyInterpreterRef_Dup(memory_like(ref_here()));
}

// expect: fatal PyInterpreterRef_AsInterpreter "not a PyInterpreterRef"
SCENARIO(memory_as_a_ref_to_an_interpreter, "Memory that is not a reference has no interpreter")
{
    py_init();
    PyInterpreterRef_AsInterpreter(memory_like(ref_here()));
}

// expect: fatal PyThreadState_Ensure "not a PyInterpreterRef"
SCENARIO(memory_as_a_ref_to_ensure, "Memory that is not a reference lets nobody in")
{
    py_init();
    PyThreadState_Ensure(memory_like(ref_here()));
}

// expect: fatal Pep788_EnsureStealing "not a PyInterpreterRef"
SCENARIO(memory_as_a_ref_to_steal, "Memory that is not a reference is not consumed")
{
    py_init();
    Pep788_EnsureStealing(memory_like(ref_here()));
}

// expect: fatal PyInterpreterWeakRef_Close "not a PyInterpreterWeakRef"
SCENARIO(memory_as_a_wref_to_close, "Memory that is not a weak reference is not closed")
{
    py_init();
    PyInterpreterWeakRef_Close(memory_like(wref_here()));
}

// expect: fatal PyInterpreterWeakRef_Dup "not a PyInterpreterWeakRef"
SCENARIO(memory_as_a_wref_to_dup, "Memory that is not a weak reference has no Dup")
{
    py_init();
    PyInterpreterWeakRef_Dup(memory_like(wref_here()));
}

// expect: fatal PyInterpreterWeakRef_AsStrong "not a PyInterpreterWeakRef"
SCENARIO(memory_as_a_wref_to_promote, "Memory that is not a weak reference is not promoted")
{
    py_init();
    PyInterpreterRef ref;
    PyInterpreterWeakRef_AsStrong(memory_like(wref_here()), &ref);
}

// expect: fatal PyThreadState_Ensure ""
SCENARIO(an_interpreter_as_a_ref, "An interpreter is no reference")
{
    py_init();
    PyThreadState_Ensure((void *)PyInterpreterState_Get());
}
