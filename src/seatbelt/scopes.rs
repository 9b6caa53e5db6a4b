//! Serves the functions that some libraries use in place of `PyGILState_Ensure`.
//!
//! The functions are `PyThreadState_New`, `PyEval_AcquireThread` and `PyThreadState_DeleteCurrent`. Two libraries
//! attach threads by themselves, with `PyEval_AcquireThread`:
//!
//! - pybind11 has `gil_scoped_acquire`, here called a *scope*. In a new thread it makes a thread state, sets the
//!   count in it to 0, and attaches it. At its end it counts down to 0 again and calls
//!   `PyThreadState_DeleteCurrent`.
//! - cffi keeps the thread state that its first Ensure made, by counting one call more. Up to 2.0 cffi attached that
//!   thread state by `PyEval_RestoreThread` from then on, which is not redirected. So the library deletes that
//!   thread state, and cffi is prepared for that.
//!
//! It is not known where the calls of other libraries that attach by themselves end. For those libraries nothing is
//! changed.

use super::call::{attach, count, delete, while_alive, State, ACQUIRE, DELETE, NEW};
use crate::exit::late;
use crate::python::{self, states, PyInterpreterState, PyThreadState};
use crate::thread::attached::attached;
use crate::thread::birth;
use crate::thread::thread::Thread;

/// Makes a thread state. A thread with nothing attached may be about to begin a scope. So after the end of Python
/// such a thread is ended.
pub(super) unsafe extern "C" fn new(interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
    let py = python::get_or_fatal(NEW);
    let make = || {
        // SAFETY: the caller names an interpreter that does not end now.
        let make = || unsafe { states::get().make(interpreter) };
        match birth::matters(py).then(Thread::this).flatten() {
            Some(thread) => birth::of_thread_state(py, &thread.birth, make),
            None => make(),
        }
    };
    if attached(py).is_null() {
        while_alive(py, make).unwrap_or_else(|| late::end())
    } else {
        make()
    }
}

/// Attaches a thread state. CPython calls this too, while it waits for locks of its own. So this runs no Python
/// code.
pub(super) unsafe extern "C" fn acquire_thread(state: *mut PyThreadState) {
    let py = python::get_or_fatal(ACQUIRE);
    if state.is_null() {
        python::fatal(ACQUIRE, "the thread state is NULL");
    }
    // SAFETY: the caller may attach this thread state, so it is the caller's own. It goes only with its interpreter.
    let counted = while_alive(py, || unsafe { *count(state) }).unwrap_or_else(|| late::end());
    if counted != 0 {
        // SAFETY: the caller promises what CPython's own function asks for.
        return unsafe { py.PyEval_RestoreThread(state) };
    }
    if attach(py, State::OfScope(state)).is_none() {
        late::end();
    }
}

pub(super) unsafe extern "C" fn delete_current() {
    let py = python::get_or_fatal(DELETE);
    let state = attached(py);
    if state.is_null() {
        python::fatal(DELETE, "no thread state is attached to the calling thread");
    }
    delete(py, state);
    if let Some(thread) = Thread::known() {
        thread.legacy.note_deletion(&thread.tally, state);
    }
}
