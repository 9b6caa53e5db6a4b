//! The seatbelt: protection for code that calls `PyGILState_Ensure`.

use std::ffi::{c_int, c_void};

use super::shared::raise;
use crate::exit::at_fini;
use crate::interpreter::first_use::of;
use crate::python::{self, PyInterpreterState, PyThreadState};
use crate::seatbelt::{call, choose, copies};
use crate::start;
use crate::thread::attached::attached_or_fatal;

/// As in Python.h, an enumeration.
pub type PyGILState_STATE = c_int;

/// Has this library serve PyGILState_Ensure() and PyGILState_Release() from now on, for all code of the process,
/// CPython's own included. A thread with nothing attached then holds the interpreter from Ensure to
/// Release: its end waits for that, for PEP788_GILSTATE_WAIT_MS at most (3000 milliseconds unless
/// the environment says otherwise). Once it is too late, such a thread is ended in
/// Ensure without unwinding, instead of crashing; so is one that comes back by PyEval_RestoreThread() or otherwise. Whoever joins
/// it goes on. All else about the two is as it was.
///
/// Caller: any thread, attached or not, also before Py_Initialize(). Other threads may be
/// inside the two functions, or call them at the same time. All of them are stopped for a moment (2 seconds, before it is given up) by a real-time signal that is not in
/// use, so a system call that such signals interrupt (poll, sleep) may return early in them, with EINTR.
///
/// Returns 0, also if it is on already. There is no way back.
///
/// Fails with -1, no exception, and a line on stderr that says why: the code must not be changed in this
/// process, the processor is unknown, there is no CPython. Then nothing has changed.
///
/// Contract: this library's own. PEP788_GILSTATE=protect in the environment does the same when the
/// library is loaded.
#[no_mangle]
pub unsafe extern "C" fn Pep788_ProtectGILState() -> c_int {
    if start::protect_or_say() {
        0
    } else {
        -1
    }
}

/// Whether PyGILState_Ensure(), for a thread with nothing attached that comes too late, does not return
/// (`hang` not 0, as it is at first: the thread is ended), or returns a value of which PyGILState_Failed() says so. For the whole
/// process; has an effect under Pep788_ProtectGILState() only.
///
/// Caller: any thread, attached or not, at any time.
///
/// Contract: an alternative of the discussion of PEP 788. All code of the process that calls
/// PyGILState_Ensure() has to look at what it returns, if `hang` is 0.
#[no_mangle]
pub unsafe extern "C" fn PyGILState_SetHangDuringFini(hang: c_int) {
    copies::set_hangs(hang != 0);
}

/// Whether PyGILState_Ensure() failed: nothing is attached, and no Python code may be run. To release
/// it is not needed, and has no effect.
///
/// Caller: any thread. Returns 1 or 0.
///
/// Contract: an alternative of the discussion of PEP 788.
#[no_mangle]
pub unsafe extern "C" fn PyGILState_Failed(state: PyGILState_STATE) -> c_int {
    c_int::from(state == call::FAILED)
}

/// Which interpreter PyGILState_Ensure() of the calling thread attaches to, from now on, when the
/// thread has no thread state yet; NULL: the main one, as at first. Once that interpreter is gone, or too late,
/// Ensure does what it does after the end of the main one.
///
/// Caller: any thread, under Pep788_ProtectGILState(). The interpreter must be alive: attached to the thread, or
/// guarded.
///
/// Returns 0. Fails with -1 and no exception: Pep788_ProtectGILState() is not on, it is no interpreter, it is too
/// late to attach, or out of memory.
///
/// Contract: an alternative of the discussion of PEP 788.
#[no_mangle]
pub unsafe extern "C" fn PyGILState_SetInterpreter(interp: *mut PyInterpreterState) -> c_int {
    let py = start::api("PyGILState_SetInterpreter");
    if choose::choose_interpreter(py, interp) {
        0
    } else {
        -1
    }
}

/// Has `callback` called once, with `tstate` and `arg`, when the end of the interpreter of `tstate` begins to wait: in the
/// thread that finalizes, attached to the interpreter that ends. There the program can tell its threads to
/// come to an end. Not called if `tstate` is cleared before; but its thread may delete it while the
/// callback gives up the GIL, or at any time where there is none: so `tstate` is for telling it from others. The main interpreter's end calls those of all
/// interpreters; a thread state has one callback, and NULL takes it back. If it returns other than
/// 0 with an exception set, that is reported as unraisable, and the exit goes on.
///
/// Caller: `tstate` is attached to it; a fatal error otherwise.
///
/// Returns 0. Fails with -1 and an exception: PythonFinalizationError (RuntimeError before 3.13) when
/// it is too late, MemoryError when out of memory.
///
/// Contract: an alternative of the discussion of PEP 788.
#[no_mangle]
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
    // SAFETY: attached.
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
