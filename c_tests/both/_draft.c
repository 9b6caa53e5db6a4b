#define API_DRAFT
#include "harness.h"

#include "_draft.h"

void *draft_ref(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

void *draft_weak_ref(void)
{
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    return wref;
}

void *draft_as_strong(void *wref)
{
    PyInterpreterRef ref;
    int result = PyInterpreterWeakRef_AsStrong(wref, &ref);
    CHECK(result == 0 || result == -1);
    CHECK((result == 0) == (ref != 0));
    return ref;
}

void *draft_main(void)
{
    PyInterpreterRef ref;
    int result = PyInterpreterRef_Main(&ref);
    CHECK(result == 0 || result == -1);
    CHECK((result == 0) == (ref != 0));
    return ref;
}

void draft_close(void *ref)
{
    PyInterpreterRef_Close(ref);
}

void draft_weak_close(void *wref)
{
    PyInterpreterWeakRef_Close(wref);
}

void draft_ensure(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
}

void draft_release(void)
{
    PyThreadState_Release();
}

int draft_get_daemon(void)
{
    return PyThreadState_GetDaemon();
}

int draft_set_daemon(int is_daemon)
{
    return PyThreadState_SetDaemon(is_daemon);
}
