//! The C functions of the seatbelt, which protects code that calls `PyGILState_Ensure`.

use core::ffi::{c_int, c_void};

use super::shared::raise;
use crate::exit::at_fini;
use crate::interpreter::first_use::of;
use crate::python::{self, PyInterpreterState, PyThreadState};
use crate::seatbelt::{call, choose, copies};
use crate::start;
use crate::thread::attached::attached_or_fatal;

/// As in Python.h, an enumeration.
pub type PyGILState_STATE = c_int;

/// Switches the seatbelt on. From now on this library serves PyGILState_Ensure() and PyGILState_Release(), for
/// all code of the process, CPython's own included. A thread with nothing attached then holds the
/// interpreter from Ensure to Release. The interpreter's end waits for that, PEP788_GILSTATE_WAIT_MS at most
/// (3000 milliseconds, unless the environment says otherwise). A thread that comes too late is ended in
/// Ensure without unwinding, instead of crashing. So is a thread that comes back by PyEval_RestoreThread() or in
/// another way. A thread that joins it goes on. In all other respects the two functions do what they did.
///
/// Caller: any thread, attached or not, also before Py_Initialize(). Other threads may be
/// inside the two functions, or call them at the same time. All other threads are stopped for a moment, by
/// a real-time signal that is not in use, or by glibc's own one (33) if they block that. So a system call that signals
/// interrupt (poll, sleep) may return early in them, with EINTR. If they cannot be stopped within 2 seconds, the function fails.
///
/// Returns 0, also if the seatbelt is on already. It cannot be switched off.
///
/// Fails with -1, no exception, and a line on stderr that says why: the code must not be changed in this
/// process, the processor is unknown, or there is no CPython. Then nothing has changed.
///
/// Contract: this library's own. PEP788_GILSTATE=protect in the environment does the same when the
/// library is loaded.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_ProtectGILState() -> c_int {
    if start::protect_or_say() {
        0
    } else {
        -1
    }
}

/// Chooses what PyGILState_Ensure() does for a thread with nothing attached that comes too late. If `hang` is not
/// 0, Ensure does not return: the thread is ended. That is so at first. If `hang` is 0, Ensure returns a value
/// for which PyGILState_Failed() returns 1. The choice is for the whole process. It has an effect only after
/// Pep788_ProtectGILState().
///
/// Caller: any thread, attached or not, at any time.
///
/// Contract: an alternative from the discussion of PEP 788. If `hang` is 0, all code of the process that calls
/// PyGILState_Ensure() has to check what it returns.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyGILState_SetHangDuringFini(hang: c_int) {
    copies::set_hangs(hang != 0);
}

/// Whether PyGILState_Ensure() failed. Then nothing is attached, and the thread may not run Python code. It
/// need not call PyGILState_Release(), which has no effect then.
///
/// Caller: any thread. Returns 1 or 0.
///
/// Contract: an alternative of the discussion of PEP 788.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyGILState_Failed(state: PyGILState_STATE) -> c_int {
    c_int::from(state == call::FAILED)
}

/// Chooses the interpreter that PyGILState_Ensure() attaches the calling thread to, when the
/// thread has no thread state yet. NULL is the main interpreter, as at first. When that interpreter finalizes or is gone,
/// Ensure does what it does when the main one is gone.
///
/// Caller: any thread, after Pep788_ProtectGILState(). The interpreter must be alive: attached to the thread, or
/// guarded.
///
/// Returns 0. Fails with -1 and no exception: the seatbelt is not on, `interp` is no interpreter, it is too
/// late to attach, or out of memory.
///
/// Contract: an alternative of the discussion of PEP 788.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyGILState_SetInterpreter(interp: *mut PyInterpreterState) -> c_int {
    let py = start::api("PyGILState_SetInterpreter");
    if choose::choose_interpreter(py, interp) {
        0
    } else {
        -1
    }
}

/// Registers `callback`, to be called once, with `tstate` and `arg`, when the end of the interpreter of `tstate` begins to
/// wait. It is called in the thread that finalizes, attached to the interpreter that ends. The program can tell
/// its threads there to stop. The end of the main interpreter calls the callbacks of all interpreters. A thread
/// state has one callback; NULL removes it. If the callback returns a value other than 0 with an exception set, the
/// exception is reported as unraisable, and the exit goes on.
///
/// The callback is not called if `tstate` is cleared before. But the thread of `tstate` may delete it while the
/// callback gives up the GIL, or at any time where there is no GIL. So the callback may compare `tstate`, and
/// not use it.
///
/// Caller: `tstate` is attached to it; a fatal error otherwise.
///
/// Returns 0. Fails with -1 and an exception: PythonFinalizationError (RuntimeError before 3.13) when
/// it is too late, MemoryError when out of memory.
///
/// Contract: an alternative of the discussion of PEP 788.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_SetFiniCallback(
    tstate: *mut PyThreadState,
    callback: Option<unsafe extern "C" fn(*mut PyThreadState, *mut c_void) -> c_int>,
    arg: *mut c_void,
) -> c_int {
    const NAME: &str = "PyThreadState_SetFiniCallback";
    let py = start::api(NAME);
    let state = attached_or_fatal(py, NAME);
    if state != tstate {
        python::fatal(NAME, "the thread state is not attached to the calling thread");
    }
    // SAFETY: `state` is attached to the calling thread.
    unsafe {
        let callback = callback.map(|callback| (callback, arg));
        let set = |record| at_fini::set(py, state, record, callback);
        match of(py, state).and_then(set) {
            Ok(()) => 0,
            Err(refusal) => {
                raise(py, refusal);
                -1
            }
        }
    }
}
