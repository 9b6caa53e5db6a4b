/*
 * pep788_keep.h: a native thread keeps its thread state between calls. It goes with either dialect, and needs no Python.h.
 *
 * Written by cbindgen from src/capi/keep.rs; changes belong there.
 */

#ifndef PEP788_KEEP_H
#define PEP788_KEEP_H


/* Of these headers, as PY_VERSION_HEX is of Python's: two digits each for major, minor and patch, and two zeros. */
#ifndef PEP788_VERSION
#define PEP788_VERSION "0.1.0"
#define PEP788_VERSION_HEX 0x00010000
#endif


#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Says whether the calling thread keeps the thread state that an Ensure makes for it. A thread that calls back often is served
 * faster then: an Ensure need not make a thread state each time, nor its Release delete it. What Python code has put into a
 * threading.local or a context variable is still there at the thread's next call.
 *
 * With 1, the thread state that the next Ensure makes in the main interpreter stays with the thread, detached. It keeps nothing
 * from finalizing: an exit does not wait for it, and CPython deletes it with the interpreter. Otherwise the library deletes it
 * when the thread ends. For that the thread attaches once more. So who joins the thread must not hold the GIL meanwhile.
 *
 * With 0, the thread state goes with the Release of the Ensure of the main interpreter that the thread is in, or at once if it is
 * in no Ensure. If PyGILState_Ensure uses it, it goes when the thread ends.
 *
 * The thread states of subinterpreters are not kept: one of them would keep Py_EndInterpreter from succeeding.
 *
 * Caller: any thread, attached or not, also before Py_Initialize. It is for the calling thread alone.
 *
 * Returns 0. Fails with -1 and no exception: out of memory, or from CPython 3.15 on, where the interpreter itself makes and
 * deletes these thread states. Then everything is as without the call.
 *
 * Contract: this library's own.
 */
int Pep788_KeepThreadState(int keep);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PEP788_KEEP_H */
