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
 * the environment says otherwise). Once it is too late, such a thread sleeps for ever in
 * Ensure, instead of being ended there or crashing. All else about the two is as it was.
 *
 * Caller: any thread before Py_Initialize(); after it, one with an attached thread state. Other threads may be
 * inside the two functions, or call them at the same time. All of them are stopped for a moment by a real-time signal that is not in
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* PEP788_GILSTATE_H */
