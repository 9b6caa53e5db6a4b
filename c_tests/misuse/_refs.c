/* The draft, for programs of the accepted API. */

#define API_DRAFT
#include "harness.h"

#include "_other_handles.h"

void *new_ref(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

void *new_weak_ref(void)
{
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    return wref;
}

void ensure_with_a_ref(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
}
