/*
 * pep788_gilstate.h: protection for code that calls PyGILState_Ensure, and what was proposed for it. It goes with
 * either dialect.
 *
 * Written by cbindgen from src/capi/gilstate.rs; changes belong there.
 */

#ifndef PEP788_GILSTATE_H
#define PEP788_GILSTATE_H

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
#include <Python.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Has this library serve PyGILState_Ensure() and PyGILState_Release() from now on, for all code of the process,
 * CPython's own included. A thread with nothing attached then holds the interpreter from Ensure to
 * Release: its end waits for that, for PEP788_GILSTATE_WAIT_MS at most (3000 milliseconds unless
 * the environment says otherwise). Once it is too late, such a thread is ended in
 * Ensure without unwinding, instead of crashing; so is one that comes back by PyEval_RestoreThread() or otherwise. Whoever joins
 * it goes on. All else about the two is as it was.
 *
 * Caller: any thread, attached or not, also before Py_Initialize(). Other threads may be
 * inside the two functions, or call them at the same time. All of them are stopped for a moment (2 seconds, before it is given up) by a real-time signal that is not in
 * use, so a system call that such signals interrupt (poll, sleep) may return early in them, with EINTR.
 *
 * Returns 0, also if it is on already. There is no way back.
 *
 * Fails with -1, no exception, and a line on stderr that says why: the code must not be changed in this
 * process, the processor is unknown, there is no CPython. Then nothing has changed.
 *
 * Contract: this library's own. PEP788_GILSTATE=protect in the environment does the same when the
 * library is loaded.
 */
int Pep788_ProtectGILState(void);

/**
 * Whether PyGILState_Ensure(), for a thread with nothing attached that comes too late, does not return
 * (`hang` not 0, as it is at first: the thread is ended), or returns a value of which PyGILState_Failed() says so. For the whole
 * process; has an effect under Pep788_ProtectGILState() only.
 *
 * Caller: any thread, attached or not, at any time.
 *
 * Contract: an alternative of the discussion of PEP 788. All code of the process that calls
 * PyGILState_Ensure() has to look at what it returns, if `hang` is 0.
 */
void PyGILState_SetHangDuringFini(int hang);

/**
 * Whether PyGILState_Ensure() failed: nothing is attached, and no Python code may be run. To release
 * it is not needed, and has no effect.
 *
 * Caller: any thread. Returns 1 or 0.
 *
 * Contract: an alternative of the discussion of PEP 788.
 */
int PyGILState_Failed(PyGILState_STATE state);

/**
 * Which interpreter PyGILState_Ensure() of the calling thread attaches to, from now on, when the
 * thread has no thread state yet; NULL: the main one, as at first. Once that interpreter is gone, or too late,
 * Ensure does what it does after the end of the main one.
 *
 * Caller: any thread, under Pep788_ProtectGILState(). The interpreter must be alive: attached to the thread, or
 * guarded.
 *
 * Returns 0. Fails with -1 and no exception: Pep788_ProtectGILState() is not on, it is no interpreter, it is too
 * late to attach, or out of memory.
 *
 * Contract: an alternative of the discussion of PEP 788.
 */
int PyGILState_SetInterpreter(PyInterpreterState *interp);

/**
 * Has `callback` called once, with `tstate` and `arg`, when the end of the interpreter of `tstate` begins to wait: in the
 * thread that finalizes, attached to the interpreter that ends. There the program can tell its threads to
 * come to an end. Not called if `tstate` is cleared before; but its thread may delete it while the
 * callback gives up the GIL, or at any time where there is none: so `tstate` is for telling it from others. The main interpreter's end calls those of all
 * interpreters; a thread state has one callback, and NULL takes it back. If it returns other than
 * 0 with an exception set, that is reported as unraisable, and the exit goes on.
 *
 * Caller: `tstate` is attached to it; a fatal error otherwise.
 *
 * Returns 0. Fails with -1 and an exception: PythonFinalizationError (RuntimeError before 3.13) when
 * it is too late, MemoryError when out of memory.
 *
 * Contract: an alternative of the discussion of PEP 788.
 */
int PyThreadState_SetFiniCallback(PyThreadState *tstate,
                                  int (*callback)(PyThreadState*, void*),
                                  void *arg);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* PEP788_GILSTATE_H */
