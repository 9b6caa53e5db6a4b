/*
 * pep788_draft.h: interpreter references and daemon-ness, the draft of PEP 788 of May 2025, for
 * CPython 3.9 and later.
 *
 * No CPython has this API. New code is better written for the accepted one: see pep788.h.
 *
 * Written by cbindgen from src/capi/draft.rs; changes belong there.
 */

#ifndef PEP788_DRAFT_H
#define PEP788_DRAFT_H

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
#include <Python.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#ifdef PEP788_H
#error "pep788.h and pep788_draft.h give PyThreadState_Ensure different types: one dialect per file"
#endif

#if PY_VERSION_HEX < 0x03090000
#error "pep788_draft.h needs CPython 3.9 or later"
#endif

/* Of these headers, as PY_VERSION_HEX is of Python's: two digits each for major, minor and patch, and two zeros. */
#ifndef PEP788_VERSION
#define PEP788_VERSION "0.1.0"
#define PEP788_VERSION_HEX 0x00010000
#endif

/*
 * Python.h of 3.15 declares PyThreadState_Ensure and PyThreadState_Release with the types of the
 * accepted API, and a stable ABI extension may be loaded there. The draft's are called by the
 * names that only this library has.
 */
#if defined(Py_LIMITED_API) || PY_VERSION_HEX >= 0x030F0000
#define PEP788_DRAFT_TWINS
#define PyThreadState_Ensure Pep788_Ensure
#define PyThreadState_Release Pep788_Release
#endif

/**
 * Behind a PyInterpreterRef; never complete.
 */
typedef struct Pep788_StrongRef Pep788_StrongRef;

/**
 * Behind a PyInterpreterWeakRef; never complete.
 */
typedef struct Pep788_WeakRef Pep788_WeakRef;

/**
 * A strong reference keeps its interpreter from finalizing until it is closed. Exactly the size
 * of a pointer, and may be cast to and from `void *`. Zero is no reference.
 */
typedef Pep788_StrongRef *PyInterpreterRef;

/**
 * A weak reference names an interpreter without keeping it from finalizing. Exactly the size of
 * a pointer, and may be cast to and from `void *`. Zero is no reference.
 */
typedef Pep788_WeakRef *PyInterpreterWeakRef;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A strong reference to the current interpreter.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns a reference, to be closed with PyInterpreterRef_Close() once, by any thread.
 *
 * Fails with zero and an exception: PythonFinalizationError (RuntimeError before 3.13) once the
 * interpreter gives no more references (to threads inside an Ensure, as long as it waits),
 * MemoryError when out of memory, and at the first use what an import hook or audit hook raised that
 * refuses to import atexit.
 *
 * Contract: PEP 788, draft of May 2025.
 */
PyInterpreterRef PyInterpreterRef_Get(void);

/**
 * A strong reference to the main interpreter.
 *
 * Caller: any thread, attached or not.
 *
 * Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the main
 * interpreter is not there, or finalizing; or this is the first use of the library in it, from a
 * thread that is not attached, and CPython's queue of pending calls is full.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int PyInterpreterRef_Main(PyInterpreterRef *ref);

/**
 * A strong reference to the interpreter at an address.
 *
 * Caller: any thread, attached or not. The address may be of an interpreter that is gone, or of
 * anything. Known are the main interpreter, the attached one, those in which this library was used before, and, up to 3.11, to
 * an attached thread, one whose only thread state that thread made.
 *
 * Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the interpreter is
 * done waiting for references, or not known.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int PyInterpreterState_AsStrong(PyInterpreterState *interp,
                                PyInterpreterRef *ref);

/**
 * The interpreter of a strong reference. It stays there at least until the reference is closed.
 *
 * Caller: any thread, attached or not. Cannot fail; but in a forked child, a reference of the parent
 * does not keep the interpreter, and NULL is returned when it is gone.
 *
 * Contract: PEP 788, draft of May 2025.
 */
PyInterpreterState *PyInterpreterRef_AsInterpreter(PyInterpreterRef ref);

/**
 * Another strong reference to the same interpreter, to be closed on its own.
 *
 * Caller: any thread, attached or not. Cannot fail.
 *
 * Contract: PEP 788, draft of May 2025.
 */
PyInterpreterRef PyInterpreterRef_Dup(PyInterpreterRef ref);

/**
 * Closes a strong reference. When the last one of an interpreter is closed, it may finalize.
 *
 * Caller: any thread, attached or not. Cannot fail. Closing more references than were taken is a
 * fatal error. In a forked child, closing a reference of the parent does nothing.
 *
 * Contract: PEP 788, draft of May 2025.
 */
void PyInterpreterRef_Close(PyInterpreterRef ref);

/**
 * A weak reference to the current interpreter.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns a reference, to be closed with PyInterpreterWeakRef_Close() once, by any thread, at any
 * time. Fails with zero and MemoryError, or, at the first use, what an import hook or audit hook raised
 * that refuses to import atexit.
 *
 * Contract: PEP 788, draft of May 2025.
 */
PyInterpreterWeakRef PyInterpreterWeakRef_Get(void);

/**
 * Another weak reference to the same interpreter, to be closed on its own.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
 *
 * Contract: PEP 788, draft of May 2025.
 */
PyInterpreterWeakRef PyInterpreterWeakRef_Dup(PyInterpreterWeakRef wref);

/**
 * Promotes a weak reference to a strong one. The weak one stays valid, and stays the caller's.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone; not from a signal
 * handler that may have interrupted this library.
 *
 * Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the interpreter is
 * gone, or it is finalizing and PEP788_DRAIN_GRACE_MS (milliseconds) have passed.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int PyInterpreterWeakRef_AsStrong(PyInterpreterWeakRef wref, PyInterpreterRef *ref);

/**
 * Closes a weak reference.
 *
 * Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
 *
 * Contract: PEP 788, draft of May 2025.
 */
void PyInterpreterWeakRef_Close(PyInterpreterWeakRef wref);

/**
 * Attaches the calling thread to the interpreter of a strong reference. It takes a reference of its own, which
 * the Release drops. The caller's reference stays the caller's.
 *
 * Caller: any thread, attached or not. One PyThreadState_Release() in the same thread undoes each success, the
 * latest first.
 *
 * Which thread state is attached then:
 * 1. The attached one, if it is of that interpreter.
 * 2. Else, with nothing attached, the one that this thread used last (PyGILState_GetThisThreadState()), if it is
 *    of that interpreter.
 * 3. Else a new one, which the Release deletes.
 *
 * Returns 0. Fails with -1 and no exception: the interpreter waits for references no more, or out of memory.
 * Then what was attached before is attached again.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int Pep788_Ensure(PyInterpreterRef ref);

/**
 * Like PyThreadState_Ensure() of the draft, but the caller's reference is consumed, whether the
 * call succeeds or fails. For code written for the revision in which Ensure steals.
 *
 * Caller, result: as for PyThreadState_Ensure(). The reference must not be closed.
 *
 * Contract: this library's own.
 */
int Pep788_EnsureStealing(PyInterpreterRef ref);

/**
 * Undoes this thread's most recent Ensure: exactly what was attached before it is attached again.
 *
 * Caller: must have attached what the Ensure attached. Cannot fail. One release too many is a
 * fatal error.
 *
 * Contract: PEP 788, draft of May 2025.
 */
void Pep788_Release(void);

#if !defined(PEP788_DRAFT_TWINS)
/**
 * Like Pep788_Ensure(), under the draft's own name.
 */
int PyThreadState_Ensure(PyInterpreterRef ref);
#endif

#if !defined(PEP788_DRAFT_TWINS)
/**
 * Like Pep788_Release(), under the draft's own name.
 */
void PyThreadState_Release(void);
#endif

/**
 * Makes the attached thread state daemon (`is_daemon` not 0) or non-daemon (0).
 *
 * A non-daemon thread state holds a strong reference to its interpreter, until it is cleared or
 * deleted by any means, or, inside an Ensure, until the Release, which restores what was before.
 * A daemon one holds none: the interpreter may finalize under the thread.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns 0. Fails with -1 and no exception: in the interpreter's main thread; daemon, in a
 * non-daemon threading.Thread, which the exit joins in any case; non-daemon, once references are
 * no longer given, or out of memory.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int PyThreadState_SetDaemon(int is_daemon);

/**
 * Whether the attached thread state is a daemon one.
 *
 * Caller: must have an attached thread state; a fatal error otherwise.
 *
 * Returns 0 inside an Ensure that holds the interpreter (any of the draft, and this library's
 * PyThreadState_EnsureFromView), after PyThreadState_SetDaemon(0), in the main thread and in a
 * non-daemon threading.Thread; 1 in a daemon threading.Thread and in any other thread.
 *
 * Contract: PEP 788, draft of May 2025.
 */
int PyThreadState_GetDaemon(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* PEP788_DRAFT_H */
