/*
 * pep788.h: guards and views, the accepted API of PEP 788, for CPython 3.9 and later.
 *
 * From CPython 3.15 on Python.h declares all of this itself, and this header adds nothing.
 *
 * Written by cbindgen from src/capi/accepted.rs; changes belong there.
 */

#ifndef PEP788_H
#define PEP788_H

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
#include <Python.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#ifdef PEP788_DRAFT_H
#error "pep788.h and pep788_draft.h give PyThreadState_Ensure different types: one dialect per file"
#endif

#if PY_VERSION_HEX < 0x03090000
#error "pep788.h needs CPython 3.9 or later"
#endif

/* Of these headers, as PY_VERSION_HEX is of Python's: two digits each for major, minor and patch, and two zeros. */
#ifndef PEP788_VERSION
#define PEP788_VERSION "0.1.0"
#define PEP788_VERSION_HEX 0x00010000
#endif

/* A result that is not looked at is a mistake: what it says is not known, or it is never closed. */
#if defined(__GNUC__)
#define PEP788_MUST_USE __attribute__((warn_unused_result))
#else
#define PEP788_MUST_USE
#endif

/* Python.h has these declarations from 3.15 on, unless it is held to an older limited API. */
#if PY_VERSION_HEX < 0x030F0000 || (defined(Py_LIMITED_API) && Py_LIMITED_API+0 < 0x030F0000)

/**
 * A guard keeps its interpreter from finalizing until the guard is closed. `Py_FinalizeEx`,
 * `Py_EndInterpreter` and the end of a script wait for it.
 */
typedef struct PyInterpreterGuard PyInterpreterGuard;

/**
 * A view names an interpreter and does not keep it from finalizing. As long as it is safe, a thread can
 * take a guard by a view, or attach by it. After that both are refused.
 */
typedef struct PyInterpreterView PyInterpreterView;

/**
 * What an Ensure returns and its Release takes.
 */
typedef void PyThreadStateToken;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Guards the current interpreter.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns a guard, to be closed with PyInterpreterGuard_Close() once, by any thread.
 *
 * Fails with NULL and an exception:
 * - PythonFinalizationError (RuntimeError before 3.13): the interpreter is finalizing and gives no more
 *   guards. Threads inside an Ensure get them as long as the exit waits.
 * - MemoryError: out of memory.
 * - At the first use, the exception of an import hook or audit hook that refuses to import atexit.
 *
 * Contract: PEP 788, PyInterpreterGuard_FromCurrent.
 */
PEP788_MUST_USE
PyInterpreterGuard *PyInterpreterGuard_FromCurrent(void);

/**
 * Guards the interpreter that a view names. The view stays valid, and stays the caller's.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone.
 *
 * Returns a guard, to be closed with PyInterpreterGuard_Close() once, by any thread.
 *
 * Fails with NULL and no exception: the interpreter is gone, or it is finalizing and
 * PEP788_DRAIN_GRACE_MS (milliseconds) have passed, or out of memory.
 *
 * Contract: PEP 788, PyInterpreterGuard_FromView.
 */
PEP788_MUST_USE PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *view);

/**
 * Closes a guard. When the last guard of an interpreter is closed, the interpreter may finalize. A thread
 * that is still attached to it is then a daemon thread.
 *
 * Caller: any thread, attached or not. Cannot fail. Closing more guards than were taken is a
 * fatal error. In a forked child, closing a guard of the parent does nothing.
 *
 * Contract: PEP 788, PyInterpreterGuard_Close.
 */
void PyInterpreterGuard_Close(PyInterpreterGuard *guard);

/**
 * A view of the current interpreter.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns a view, to be closed with PyInterpreterView_Close() once, by any thread, at any time.
 *
 * Fails with NULL and an exception:
 * - MemoryError: out of memory.
 * - At the first use, the exception of an import hook or audit hook that refuses to import atexit.
 *
 * Contract: PEP 788, PyInterpreterView_FromCurrent.
 */
PEP788_MUST_USE PyInterpreterView *PyInterpreterView_FromCurrent(void);

/**
 * A view of the main interpreter. It is for callbacks that have no argument by which they could find their
 * interpreter. Code that uses it cannot work in subinterpreters.
 *
 * Caller: any thread, attached or not, also before Py_Initialize(). The view names "main": after
 * Py_FinalizeEx() and another Py_Initialize() it can be used again.
 *
 * Returns a view, to be closed with PyInterpreterView_Close() once. This library's function cannot fail.
 * The interpreter's own (3.15) returns NULL, without an exception, when out of memory.
 *
 * Contract: PEP 788, PyInterpreterView_FromMain.
 */
PEP788_MUST_USE
PyInterpreterView *PyInterpreterView_FromMain(void);

/**
 * Closes a view.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
 *
 * Contract: PEP 788, PyInterpreterView_Close.
 */
void PyInterpreterView_Close(PyInterpreterView *view);

/**
 * Attaches the calling thread to the interpreter of a guard.
 *
 * Caller: any thread, attached or not. One PyThreadState_Release() in the same thread undoes each success, the
 * latest first. PyGILState_Ensure() inside reuses the attached thread state, and the other way round.
 *
 * Which thread state is attached then:
 * 1. The attached one, if it is of that interpreter.
 * 2. Else, with nothing attached, the one that this thread used last (PyGILState_GetThisThreadState()), if it is
 *    of that interpreter.
 * 3. Else a new one, which the Release deletes.
 *
 * The guard stays the caller's, and must stay open until the Release. After it is closed, the
 * interpreter may finalize, and the thread is a daemon thread.
 *
 * Returns a token for the Release. Fails with NULL and no exception: out of memory. Then what was attached
 * before is attached again. In a forked child, a guard of the parent is taken as a view.
 *
 * Contract: PEP 788, PyThreadState_Ensure.
 */
PEP788_MUST_USE
PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard);

/**
 * Attaches the calling thread to the interpreter of a view, and guards it until the Release.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone. Otherwise like
 * PyThreadState_Ensure().
 *
 * Returns a token for PyThreadState_Release(). Fails with NULL and no exception: the interpreter
 * is gone, or it is finalizing and PEP788_DRAIN_GRACE_MS (milliseconds) have passed, or out of memory.
 *
 * Contract: PEP 788, PyThreadState_EnsureFromView.
 */
PEP788_MUST_USE
PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view);

/**
 * Undoes this thread's most recent Ensure: exactly what was attached before it is attached again.
 *
 * Caller: must have attached what the Ensure attached. `token` is what the Ensure returned.
 * Cannot fail. One release too many, or out of order, is a fatal error. Ensures that all found the same
 * thread state attached have no order.
 *
 * Contract: PEP 788, PyThreadState_Release.
 */
void PyThreadState_Release(PyThreadStateToken *token);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* not in Python.h */

#endif /* PEP788_H */
