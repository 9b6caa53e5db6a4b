/* The draft's half of stress.c. */

#include <pep788_draft.h>

#include "stress.h"

void *draft_weak(void)
{
    PyInterpreterWeakRef weak = PyInterpreterWeakRef_Get();
    CHECK(weak != 0);
    return (void *)weak;
}

void *draft_weak_dup(void *weak)
{
    return (void *)PyInterpreterWeakRef_Dup((PyInterpreterWeakRef)weak);
}

void draft_weak_close(void *weak)
{
    PyInterpreterWeakRef_Close((PyInterpreterWeakRef)weak);
}

bool draft_gives(void *weak)
{
    PyInterpreterRef ref;
    if (PyInterpreterWeakRef_AsStrong((PyInterpreterWeakRef)weak, &ref) < 0) {
        CHECK(ref == 0);
        return false;
    }
    PyInterpreterRef_Close(ref);
    return true;
}

bool draft_gives_main(void)
{
    PyInterpreterRef ref;
    if (PyInterpreterRef_Main(&ref) < 0) {
        return false;
    }
    PyInterpreterRef_Close(ref);
    return true;
}

bool draft_call(void *weak, bool is_main, void *address, void (*work)(void *), void *argument)
{
    PyInterpreterRef ref;
    if (is_main && ONE_IN(3)) {
        if (PyInterpreterRef_Main(&ref) < 0) {
            return false;
        }
    } else if (address != NULL && ONE_IN(3)) {
        if (PyInterpreterState_AsStrong(address, &ref) < 0) {
            return false;
        }
    } else if (PyInterpreterWeakRef_AsStrong((PyInterpreterWeakRef)weak, &ref) < 0) {
        return false;
    }
    if (ONE_IN(3)) {
        PyInterpreterRef other = PyInterpreterRef_Dup(ref);
        PyInterpreterRef_Close(ref);
        ref = other;
    }
    bool steal = ONE_IN(3), early = ONE_IN(2);
    if ((steal ? Pep788_EnsureStealing(ref) : PyThreadState_Ensure(ref)) < 0) {
        return false;
    }
    if (!steal && early) {
        PyInterpreterRef_Close(ref);
    }
    call_entered();
    work(argument);
    PyThreadState_Release();
    call_finished();
    if (!steal && !early) {
        PyInterpreterRef_Close(ref);
    }
    return true;
}

bool draft_set_daemon(bool daemon)
{
    return PyThreadState_SetDaemon(daemon) == 0;
}
