/*
 * pep788_compat.h: the accepted API of PEP 788 for one source that is built everywhere: on CPython from 3.6 on, PyPy and
 * GraalPy, on Linux, macOS and Windows.
 *
 * Whose functions they are:
 *
 *   - from CPython 3.15 on the interpreter's own;
 *   - before, libpep788's, where its `pep788.h` is found: the build links it then;
 *   - else, and if PEP788_NO_LIBRARY is defined, those of this file, which do what can be done without a library.
 *     PEP788_COMPAT_FALLBACK is defined then.
 *
 * Who may call a function, what comes back and what fails is as in pep788.h, less what is listed below.
 *
 * What the functions of this file promise: an interpreter that has begun to finalize is not entered as far as that can be
 * seen, and `Py_FinalizeEx` waits in an exit callback for guards that are not closed. Views are honoured for the first
 * second of that wait.
 *
 * What they cannot promise, and libpep788 can:
 *
 *   - Subinterpreters are refused. A thread that is attached to one must not call PyThreadState_Ensure.
 *   - Exit callbacks that are older than the first use of this file run after the wait, and are refused.
 *   - Before PyInterpreterGuard_FromCurrent or PyInterpreterView_FromCurrent was called once, nobody waits for a guard.
 *     Call one of them when the module is initialized.
 *   - With the limited API before 3.13, and on PyPy and GraalPy, a finalization that nobody waited in is not seen.
 *   - A child process is not waited for, and there is one run of Python in a process.
 *   - Interpreters that were ended and guards closed too often are not found out.
 */

#ifndef PEP788_COMPAT_H
#define PEP788_COMPAT_H

#include <Python.h>

#if PY_VERSION_HEX >= 0x030F0000 && !defined(PYPY_VERSION) && !defined(GRAALVM_PYTHON) && \
    (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x030F0000)
/* Python.h has it all. */

#else

#if defined(PEP788_H) && !defined(PEP788_NO_LIBRARY)
/* Included already. */
#elif defined(__has_include) && !defined(PEP788_NO_LIBRARY) && !defined(PYPY_VERSION) && !defined(GRAALVM_PYTHON)
#if __has_include("pep788.h") && PY_VERSION_HEX >= 0x03090000
#include "pep788.h"
#endif
#endif

#ifndef PEP788_H
#define PEP788_COMPAT_FALLBACK 1

#include <stddef.h>
#include <stdint.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif
#ifndef _WIN32
#include <unistd.h>
#endif

#if defined(__cplusplus) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L)
#define PEP788_COMPAT_FUNCTION static inline
#else
#define PEP788_COMPAT_FUNCTION static __inline
#endif

typedef struct PyInterpreterGuard PyInterpreterGuard;
typedef struct PyInterpreterView PyInterpreterView;
typedef void PyThreadStateToken;

/* Each file that includes this has one. Guards and views are its address, so that they can be handed to other files. */
struct pep788_compat_state {
    /* How many guards are out, times four; and what follows. */
    volatile long word;
    /* The exit callback is registered. */
    volatile long is_installed;
    /* In which process. */
    long process;
};

/* The exit goes on: nobody is let in. */
#define PEP788_COMPAT_CLOSED 1L
/* The exit has waited long enough for views. */
#define PEP788_COMPAT_DRAINS 2L
#define PEP788_COMPAT_GUARD 4L

/* What a token says besides the state's address. */
#define PEP788_COMPAT_DETACHES 1
#define PEP788_COMPAT_HOLDS 2

static struct pep788_compat_state pep788_compat_state;

/* Full barriers, both: they are rare beside the attaching that goes with them. */
#ifdef _MSC_VER
#define pep788_compat_exchange(word, before, after) (_InterlockedCompareExchange((word), (after), (before)) == (before))
#define pep788_compat_set(word, bits) _InterlockedOr((word), (bits))
#define pep788_compat_add(word, number) _InterlockedExchangeAdd((word), (number))
#else
#define pep788_compat_exchange(word, before, after) __sync_bool_compare_and_swap((word), (before), (after))
#define pep788_compat_set(word, bits) __sync_fetch_and_or((word), (bits))
#define pep788_compat_add(word, number) __sync_fetch_and_add((word), (number))
#endif
#define pep788_compat_load(word) pep788_compat_set((word), 0)

PEP788_COMPAT_FUNCTION long pep788_compat_process(void)
{
#ifdef _WIN32
    return 0;
#else
    return (long)getpid();
#endif
}

/* One guard more. 0: it is too late. */
PEP788_COMPAT_FUNCTION int pep788_compat_enter(struct pep788_compat_state *state)
{
    for (;;) {
        long word = pep788_compat_load(&state->word);
        if (word & (PEP788_COMPAT_CLOSED | PEP788_COMPAT_DRAINS)) {
            return 0;
        }
        if (pep788_compat_exchange(&state->word, word, word + PEP788_COMPAT_GUARD)) {
            return 1;
        }
    }
}

/* One less. */
PEP788_COMPAT_FUNCTION void pep788_compat_leave(struct pep788_compat_state *state)
{
    (void)pep788_compat_add(&state->word, -PEP788_COMPAT_GUARD);
}

/* Whether Python is not there, or finalizes, as far as it can be seen. */
PEP788_COMPAT_FUNCTION int pep788_compat_is_too_late(void)
{
#if defined(PYPY_VERSION) || defined(GRAALVM_PYTHON)
    return !Py_IsInitialized();
#elif PY_VERSION_HEX >= 0x030D0000 && (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x030D0000)
    return !Py_IsInitialized() || Py_IsFinalizing();
#elif PY_VERSION_HEX >= 0x03070000 && !defined(Py_LIMITED_API)
    return !Py_IsInitialized() || _Py_IsFinalizing();
#else
    return !Py_IsInitialized();
#endif
}

/* The exit callback: returns when no guard is out. */
PEP788_COMPAT_FUNCTION PyObject *pep788_compat_wait(PyObject *self, PyObject *unused)
{
    struct pep788_compat_state *state = &pep788_compat_state;
    double waited = 0, pause = 0.002;
    PyObject *time = PyImport_ImportModule("time");
    (void)unused;
    while (!(pep788_compat_load(&state->word) & PEP788_COMPAT_CLOSED)) {
        PyObject *slept;
        long drains = pep788_compat_load(&state->word) & PEP788_COMPAT_DRAINS;
        if (pep788_compat_exchange(&state->word, drains, drains | PEP788_COMPAT_CLOSED)) {
            break;
        }
        if (state->process != pep788_compat_process()) {
            /* The threads that have them are the parent's. */
            (void)pep788_compat_set(&state->word, PEP788_COMPAT_CLOSED);
            break;
        }
        if (waited >= 1.0) {
            (void)pep788_compat_set(&state->word, PEP788_COMPAT_DRAINS);
        }
        slept = time == NULL ? NULL : PyObject_CallMethod(time, "sleep", "d", pause);
        if (slept == NULL) {
            /* A signal's exception. It is told of, and the wait goes on. */
            PyErr_WriteUnraisable(self);
            Py_BEGIN_ALLOW_THREADS
            Py_END_ALLOW_THREADS
        }
        Py_XDECREF(slept);
        waited += pause;
    }
    Py_XDECREF(time);
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Registers it, in an attached thread. 0; or -1, with an exception set. */
PEP788_COMPAT_FUNCTION int pep788_compat_install(struct pep788_compat_state *state)
{
    static PyMethodDef method = {
        "pep788_compat_wait", pep788_compat_wait, METH_NOARGS, "Waits for guards of pep788_compat.h."};
    PyObject *module, *callback, *registered = NULL;
    if (pep788_compat_load(&state->is_installed)) {
        return 0;
    }
#ifdef PYPY_VERSION
    /* Else the first native thread that attaches is the end of the process. */
    PyEval_InitThreads();
#endif
    module = PyImport_ImportModule("atexit");
    callback = module == NULL ? NULL : PyCFunction_NewEx(&method, NULL, NULL);
    if (callback != NULL) {
        state->process = pep788_compat_process();
        registered = PyObject_CallMethod(module, "register", "O", callback);
    }
    Py_XDECREF(callback);
    Py_XDECREF(module);
    if (registered == NULL) {
        return -1;
    }
    Py_DECREF(registered);
    (void)pep788_compat_exchange(&state->is_installed, 0, 1);
    return 0;
}

/* 0: the attached interpreter is the main one. Else -1, with an exception set. */
PEP788_COMPAT_FUNCTION int pep788_compat_is_main(void)
{
#if PY_VERSION_HEX >= 0x03090000 && !defined(PYPY_VERSION) && !defined(GRAALVM_PYTHON) && \
    (!defined(Py_LIMITED_API) || Py_LIMITED_API + 0 >= 0x03090000)
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(
            PyExc_NotImplementedError, "pep788_compat.h serves the main interpreter only; with libpep788 there are the others");
        return -1;
    }
#endif
    return 0;
}

PEP788_COMPAT_FUNCTION PyInterpreterGuard *pep788_compat_PyInterpreterGuard_FromCurrent(void)
{
    struct pep788_compat_state *state = &pep788_compat_state;
    if (pep788_compat_is_main() != 0 || pep788_compat_install(state) != 0) {
        return NULL;
    }
    if (pep788_compat_is_too_late() || !pep788_compat_enter(state)) {
        PyErr_SetString(PyExc_RuntimeError, "the interpreter is finalizing and gives no more guards");
        return NULL;
    }
    return (PyInterpreterGuard *)state;
}

PEP788_COMPAT_FUNCTION PyInterpreterGuard *pep788_compat_PyInterpreterGuard_FromView(PyInterpreterView *view)
{
    struct pep788_compat_state *state = (struct pep788_compat_state *)view;
    if (!pep788_compat_enter(state)) {
        return NULL;
    }
    if (pep788_compat_is_too_late()) {
        pep788_compat_leave(state);
        return NULL;
    }
    return (PyInterpreterGuard *)state;
}

PEP788_COMPAT_FUNCTION void pep788_compat_PyInterpreterGuard_Close(PyInterpreterGuard *guard)
{
    pep788_compat_leave((struct pep788_compat_state *)guard);
}

PEP788_COMPAT_FUNCTION PyInterpreterView *pep788_compat_PyInterpreterView_FromCurrent(void)
{
    struct pep788_compat_state *state = &pep788_compat_state;
    if (pep788_compat_is_main() != 0 || pep788_compat_install(state) != 0) {
        return NULL;
    }
    return (PyInterpreterView *)state;
}

PEP788_COMPAT_FUNCTION PyInterpreterView *pep788_compat_PyInterpreterView_FromMain(void)
{
    return (PyInterpreterView *)&pep788_compat_state;
}

PEP788_COMPAT_FUNCTION void pep788_compat_PyInterpreterView_Close(PyInterpreterView *view)
{
    (void)view;
}

PEP788_COMPAT_FUNCTION PyThreadStateToken *pep788_compat_attach(struct pep788_compat_state *state, int holds)
{
    int detaches = PyGILState_Ensure() == PyGILState_UNLOCKED ? PEP788_COMPAT_DETACHES : 0;
    return (char *)state + (detaches | holds);
}

PEP788_COMPAT_FUNCTION PyThreadStateToken *pep788_compat_PyThreadState_Ensure(PyInterpreterGuard *guard)
{
    return pep788_compat_attach((struct pep788_compat_state *)guard, 0);
}

PEP788_COMPAT_FUNCTION PyThreadStateToken *pep788_compat_PyThreadState_EnsureFromView(PyInterpreterView *view)
{
    PyInterpreterGuard *guard = pep788_compat_PyInterpreterGuard_FromView(view);
    struct pep788_compat_state *state = (struct pep788_compat_state *)guard;
    PyThreadStateToken *token;
    if (guard == NULL) {
        return NULL;
    }
    token = pep788_compat_attach(state, PEP788_COMPAT_HOLDS);
    if (!pep788_compat_load(&state->is_installed) && state == &pep788_compat_state && !PyErr_Occurred() &&
        pep788_compat_install(state) != 0) {
        /* The next one tries again. */
        PyErr_Clear();
    }
    return token;
}

PEP788_COMPAT_FUNCTION void pep788_compat_PyThreadState_Release(PyThreadStateToken *token)
{
    int bits = (int)((uintptr_t)token & 3);
    struct pep788_compat_state *state = (struct pep788_compat_state *)(void *)((char *)token - bits);
    PyGILState_Release(bits & PEP788_COMPAT_DETACHES ? PyGILState_UNLOCKED : PyGILState_LOCKED);
    if (bits & PEP788_COMPAT_HOLDS) {
        pep788_compat_leave(state);
    }
}

/* Under names of this file's, as Python.h or another library may have the others. */
#define PyInterpreterGuard_FromCurrent pep788_compat_PyInterpreterGuard_FromCurrent
#define PyInterpreterGuard_FromView pep788_compat_PyInterpreterGuard_FromView
#define PyInterpreterGuard_Close pep788_compat_PyInterpreterGuard_Close
#define PyInterpreterView_FromCurrent pep788_compat_PyInterpreterView_FromCurrent
#define PyInterpreterView_FromMain pep788_compat_PyInterpreterView_FromMain
#define PyInterpreterView_Close pep788_compat_PyInterpreterView_Close
#define PyThreadState_Ensure pep788_compat_PyThreadState_Ensure
#define PyThreadState_EnsureFromView pep788_compat_PyThreadState_EnsureFromView
#define PyThreadState_Release pep788_compat_PyThreadState_Release

#endif /* PEP788_H */
#endif /* Python.h has it all */

/* Where there is no libpep788, a thread keeps no thread state, and is told so. */
#if defined(PEP788_H)
#include "pep788_keep.h"
#elif !defined(PEP788_KEEP_H)
/* And that header adds nothing after this. */
#define PEP788_KEEP_H
#define Pep788_KeepThreadState(keep) ((void)(keep), -1)
#endif

#endif /* PEP788_COMPAT_H */
