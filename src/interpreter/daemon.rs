//! Tells and changes whether the attached thread state is daemon or non-daemon, for the draft API.
//!
//! A thread state is non-daemon while it holds a guard (`attach/holding.rs`), or if `threading` joins its thread.

use crate::attach::holding::{holds_by_itself, holds_in_ensure, keep, let_go};
use crate::interpreter::first_use::of;
use crate::python::{threading, Api, PyThreadState};
use crate::thread::attached::{innermost_in, was_created};
use crate::trace::note::hold_of;

/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn get(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        !(holds_in_ensure(state) || holds_by_itself(py) == Some(true) || is_joined(py, state))
    }
}

/// Returns `false` if the change is impossible, or if memory runs out.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn set(py: &'static Api, state: *mut PyThreadState, daemon: bool) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        if is_main_thread(py, state) {
            return false;
        }
        if daemon {
            // `threading` waits for its non-daemon threads whatever the library says, and refuses the same change
            // itself.
            return !is_joined(py, state) && let_go(py, state);
        }
        if holds_in_ensure(state) {
            return true;
        }
        match holds_by_itself(py) {
            Some(false) => {}
            held => return held.is_some(),
        }
        let Ok(record) = of(py, state) else {
            return false;
        };
        if record.take_guard(py).is_err() {
            return false;
        }
        let hold = hold_of(record);
        // Inside an Ensure the hold lasts until the Release, which restores what was before.
        match innermost_in(state) {
            Some((levels, index)) => {
                levels.set_hold(index, Some(hold));
                true
            }
            None => keep(py, hold),
        }
    }
}

/// Returns whether the exit joins this thread: it is the interpreter's main thread, or a thread that `threading`
/// started as non-daemon.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_joined(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe { is_main_thread(py, state) || threading::is_daemon(py) == Some(false) }
}

/// Returns whether this is the thread that the interpreter ends with. For a subinterpreter that is the thread that it
/// was made with. The list of thread states is not used for this, because it changes meanwhile where there is no GIL.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_main_thread(py: &'static Api, state: *mut PyThreadState) -> bool {
    if was_created(state) {
        return false;
    }
    /// CPython numbers the thread states of each interpreter, and this is the first number.
    const FIRST: u64 = 1;
    // SAFETY: attached, by this function's contract.
    unsafe {
        let interpreter = py.PyThreadState_GetInterpreter(state);
        if interpreter == py.PyInterpreterState_Main() {
            if let Some(is_main) = py._PyOS_IsMainThread() {
                return is_main != 0;
            }
        }
        py.PyThreadState_GetID(state) == FIRST
    }
}
