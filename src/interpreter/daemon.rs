//! Daemon-ness of the attached thread state, as the draft's functions tell and change it.
//!
//! A thread state is non-daemon while it holds a guard (`attach/holding.rs`), or because `threading` joins its thread.

use crate::attach::holding::{holds_by_itself, holds_in_ensure, keep, let_go};
use crate::interpreter::first_use::of;
use crate::python::{threading, Api, PyThreadState};
use crate::thread::attached::{innermost_in, was_created};
use crate::trace::note::hold_of;

/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn get(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        !(holds_in_ensure(state) || holds_by_itself(py) == Some(true) || is_joined(py, state))
    }
}

/// `false`: cannot be, or out of memory.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn set(py: &'static Api, state: *mut PyThreadState, daemon: bool) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        if is_main_thread(py, state) {
            return false;
        }
        if daemon {
            // `threading` waits for its non-daemon threads whatever we say, and refuses the
            // same change.
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
        // Inside an Ensure it lasts until the Release, which restores what was before.
        match innermost_in(state) {
            Some((levels, index)) => {
                levels.set_hold(index, Some(hold));
                true
            }
            None => keep(py, hold),
        }
    }
}

/// Whether the exit joins this thread: the interpreter's main thread, or one that `threading`
/// started as non-daemon.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_joined(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, says the caller.
    unsafe { is_main_thread(py, state) || threading::is_daemon(py) == Some(false) }
}

/// Whether this is the thread that the interpreter ends with: of a subinterpreter, the one it was made with. Not by the list
/// of thread states, which without a GIL changes meanwhile.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_main_thread(py: &'static Api, state: *mut PyThreadState) -> bool {
    if was_created(state) {
        return false;
    }
    /// CPython counts the thread states of each interpreter.
    const FIRST: u64 = 1;
    // SAFETY: attached, says the caller.
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
