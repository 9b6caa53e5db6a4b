//! What others use in place of `PyGILState_Ensure`: `PyThreadState_New`, `PyEval_AcquireThread` and
//! `PyThreadState_DeleteCurrent`.
//!
//! These attach by themselves, with `PyEval_AcquireThread`:
//!
//! - pybind11's `gil_scoped_acquire`, here a *scope*: in a new thread it makes a thread state, sets the count in it to 0,
//!   attaches it, and at its end counts down to 0 again and calls `PyThreadState_DeleteCurrent`.
//! - cffi keeps the thread state that its first Ensure made, by counting one call more. Up to 2.0 it attached that
//!   by `PyEval_RestoreThread` from then on, which is not redirected: so it goes, for which cffi is prepared.
//!
//! Where the calls of other libraries that attach by themselves end is not known. For them nothing is changed.

use super::call::{attach, count, delete, while_alive, State, ACQUIRE, DELETE, NEW};
use crate::exit::late;
use crate::python::{self, states, PyInterpreterState, PyThreadState};
use crate::thread::attached::attached;
use crate::thread::birth;
use crate::thread::thread::Thread;

/// A thread with nothing attached may be about to begin a scope: after the end of Python it is ended.
pub(super) unsafe extern "C" fn new(interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
    let py = python::get_or_fatal(NEW);
    let make = || {
        // SAFETY: the caller's interpreter, which does not end now.
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

/// CPython calls this too, while it waits for locks of its own: so it runs no Python code.
pub(super) unsafe extern "C" fn acquire_thread(state: *mut PyThreadState) {
    let py = python::get_or_fatal(ACQUIRE);
    if state.is_null() {
        python::fatal(ACQUIRE, "the thread state is NULL");
    }
    // SAFETY: a thread state that the caller may attach, so its own; it goes with its interpreter.
    let counted = while_alive(py, || unsafe { *count(state) }).unwrap_or_else(|| late::end());
    if counted != 0 {
        // SAFETY: as the caller of CPython's own function promises.
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
