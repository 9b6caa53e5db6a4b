/* Every function, in a process without Python: a fatal error that says so, and nothing else. */
// link: no-python

#include "harness.h"

/* The library's headers include Python.h, which is not there. All handles are as wide as a pointer. */
int Pep788_Engine(void);
void PyInterpreterGuard_FromCurrent(void);
void PyInterpreterGuard_FromView(void *handle);
void PyInterpreterGuard_Close(void *handle);
void PyInterpreterView_FromCurrent(void);
void PyInterpreterView_FromMain(void);
void PyInterpreterView_Close(void *handle);
void PyThreadState_Ensure(void *handle);
void PyThreadState_EnsureFromView(void *handle);
void PyThreadState_Release(void *handle);
void PyInterpreterRef_Get(void);
void PyInterpreterRef_Main(void *handle);
void PyInterpreterState_AsStrong(void *handle, void *place);
void PyInterpreterRef_AsInterpreter(void *handle);
void PyInterpreterRef_Dup(void *handle);
void PyInterpreterRef_Close(void *handle);
void PyInterpreterWeakRef_Get(void);
void PyInterpreterWeakRef_Dup(void *handle);
void PyInterpreterWeakRef_AsStrong(void *handle, void *place);
void PyInterpreterWeakRef_Close(void *handle);
void PyThreadState_SetDaemon(int value);
void PyThreadState_GetDaemon(void);
void Pep788_Ensure(void *handle);
void Pep788_EnsureStealing(void *handle);
void Pep788_Release(void);

static char something[8];

// expect: fatal PyInterpreterGuard_FromCurrent "there is no CPython in this process"
SCENARIO(guard_from_current, "PyInterpreterGuard_FromCurrent says that there is no CPython")
{
    PyInterpreterGuard_FromCurrent();
}

// expect: fatal PyInterpreterGuard_FromView "there is no CPython in this process"
SCENARIO(guard_from_view, "PyInterpreterGuard_FromView says that there is no CPython")
{
    PyInterpreterGuard_FromView(something);
}

// expect: fatal PyInterpreterGuard_Close "there is no CPython in this process"
SCENARIO(guard_close, "PyInterpreterGuard_Close says that there is no CPython")
{
    PyInterpreterGuard_Close(something);
}

// expect: fatal PyInterpreterView_FromCurrent "there is no CPython in this process"
SCENARIO(view_from_current, "PyInterpreterView_FromCurrent says that there is no CPython")
{
    PyInterpreterView_FromCurrent();
}

// expect: fatal PyInterpreterView_FromMain "there is no CPython in this process"
SCENARIO(view_from_main, "PyInterpreterView_FromMain says that there is no CPython")
{
    PyInterpreterView_FromMain();
}

// expect: fatal PyInterpreterView_Close "there is no CPython in this process"
SCENARIO(view_close, "PyInterpreterView_Close says that there is no CPython")
{
    PyInterpreterView_Close(something);
}

// expect: fatal PyThreadState_Ensure "there is no CPython in this process"
SCENARIO(ensure, "PyThreadState_Ensure says that there is no CPython")
{
    PyThreadState_Ensure(something);
}

// expect: fatal PyThreadState_EnsureFromView "there is no CPython in this process"
SCENARIO(ensure_from_view, "PyThreadState_EnsureFromView says that there is no CPython")
{
    PyThreadState_EnsureFromView(something);
}

// expect: fatal PyThreadState_Release "there is no CPython in this process"
SCENARIO(release, "PyThreadState_Release says that there is no CPython")
{
    PyThreadState_Release(something);
}

SCENARIO(engine, "Pep788_Engine says that there is no engine")
{
    CHECK_INT(Pep788_Engine(), 0);
}

// expect: fatal PyInterpreterRef_Get "there is no CPython in this process"
SCENARIO(ref_get, "PyInterpreterRef_Get says that there is no CPython")
{
    PyInterpreterRef_Get();
}

// expect: fatal PyInterpreterRef_Main "there is no CPython in this process"
SCENARIO(ref_main, "PyInterpreterRef_Main says that there is no CPython")
{
    PyInterpreterRef_Main(something);
}

// expect: fatal PyInterpreterState_AsStrong "there is no CPython in this process"
SCENARIO(interpreter_as_strong, "PyInterpreterState_AsStrong says that there is no CPython")
{
    PyInterpreterState_AsStrong(something, something);
}

// expect: fatal PyInterpreterRef_AsInterpreter "there is no CPython in this process"
SCENARIO(ref_as_interpreter, "PyInterpreterRef_AsInterpreter says that there is no CPython")
{
    PyInterpreterRef_AsInterpreter(something);
}

// expect: fatal PyInterpreterRef_Dup "there is no CPython in this process"
SCENARIO(ref_dup, "PyInterpreterRef_Dup says that there is no CPython")
{
    PyInterpreterRef_Dup(something);
}

// expect: fatal PyInterpreterRef_Close "there is no CPython in this process"
SCENARIO(ref_close, "PyInterpreterRef_Close says that there is no CPython")
{
    PyInterpreterRef_Close(something);
}

// expect: fatal PyInterpreterWeakRef_Get "there is no CPython in this process"
SCENARIO(weak_ref_get, "PyInterpreterWeakRef_Get says that there is no CPython")
{
    PyInterpreterWeakRef_Get();
}

// expect: fatal PyInterpreterWeakRef_Dup "there is no CPython in this process"
SCENARIO(weak_ref_dup, "PyInterpreterWeakRef_Dup says that there is no CPython")
{
    PyInterpreterWeakRef_Dup(something);
}

// expect: fatal PyInterpreterWeakRef_AsStrong "there is no CPython in this process"
SCENARIO(weak_ref_as_strong, "PyInterpreterWeakRef_AsStrong says that there is no CPython")
{
    PyInterpreterWeakRef_AsStrong(something, something);
}

// expect: fatal PyInterpreterWeakRef_Close "there is no CPython in this process"
SCENARIO(weak_ref_close, "PyInterpreterWeakRef_Close says that there is no CPython")
{
    PyInterpreterWeakRef_Close(something);
}

// expect: fatal PyThreadState_SetDaemon "there is no CPython in this process"
SCENARIO(set_daemon, "PyThreadState_SetDaemon says that there is no CPython")
{
    PyThreadState_SetDaemon(0);
}

// expect: fatal PyThreadState_GetDaemon "there is no CPython in this process"
SCENARIO(get_daemon, "PyThreadState_GetDaemon says that there is no CPython")
{
    PyThreadState_GetDaemon();
}

// expect: fatal PyThreadState_Ensure "there is no CPython in this process"
SCENARIO(twin_ensure, "Pep788_Ensure says that there is no CPython")
{
    Pep788_Ensure(something);
}

// expect: fatal Pep788_EnsureStealing "there is no CPython in this process"
SCENARIO(ensure_stealing, "Pep788_EnsureStealing says that there is no CPython")
{
    Pep788_EnsureStealing(something);
}

// expect: fatal PyThreadState_Release "there is no CPython in this process"
SCENARIO(twin_release, "Pep788_Release says that there is no CPython")
{
    Pep788_Release();
}

static void knock(void *unused)
{
    (void)unused;
    PyInterpreterView_FromMain();
}

// expect: fatal PyInterpreterView_FromMain "there is no CPython in this process"
SCENARIO(in_a_thread, "It is said in any thread")
{
    thread_join(thread_start(knock, NULL));
}
