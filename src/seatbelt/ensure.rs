//! `PyGILState_Ensure` of the library: attaches a thread, and holds the interpreter meanwhile.
//!
//! `release.rs` has `PyGILState_Release`. The two functions do what CPython's functions do. They use functions that
//! CPython exports, and they count calls where CPython counts them. So a call may begin in CPython's Ensure and end
//! in the library's Release, or the other way round.
//!
//! They do two things besides. An Ensure in a thread with nothing attached holds the interpreter (`enter.rs`,
//! `thread/legacy.rs`). If it is too late for a hold, the thread is ended (`exit/late.rs`).

use core::ffi::c_int;

use super::call::{
    attach, count, count_in_sight, make, request_install, State, ENSURE, FAILED, LOCKED, UNLOCKED,
};
use super::copies;
use crate::exit::late;
use crate::gate::registry::main;
use crate::python::{self, is_of, sight, Api, PyThreadState};
use crate::thread::thread::Thread;

pub(super) unsafe extern "C" fn ensure() -> c_int {
    match sight::attached() {
        Some(state) => ensure_seeing(state),
        None => ensure_by_key(),
    }
}

#[inline(never)]
fn ensure_by_key() -> c_int {
    sight::attached_by_key().map_or_else(ensure_somehow, ensure_seeing)
}

/// Serves an Ensure. `state` is attached to this thread, and known to `PyGILState`. If `state` is NULL, nothing is
/// attached.
#[inline(always)]
fn ensure_seeing(state: *mut PyThreadState) -> c_int {
    if state.is_null() {
        return ensure_detached();
    }
    if !main().is_installed() {
        return ensure_somehow();
    }
    // SAFETY: `state` is attached to this thread, and its count is where `sight` saw it.
    unsafe { *count_in_sight(state) += 1 };
    LOCKED
}

/// Serves an Ensure in a thread with nothing attached, as `sight` has seen.
#[inline(never)]
fn ensure_detached() -> c_int {
    let Some(thread) = Thread::known() else { return ensure_somehow() };
    if !thread.legacy.enter_quickly(&thread.tally) {
        return ensure_somehow();
    }
    let py = python::get_or_fatal(ENSURE);
    let own = sight::own(py);
    let main = main();
    // SAFETY: only the thread itself and the end of its interpreter delete a thread's last thread state. The thread
    // state has its interpreter where that is expected: `sight` has looked there before it saw anything.
    if own.is_null() || !unsafe { is_of(own, main.interpreter()) } {
        return ensure_uncommonly(py, thread, own);
    }
    let count = count_in_sight(own);
    // SAFETY: `own` is this thread's and stays; its count is where `sight` saw it.
    let counted = unsafe { *count } + 1;
    // SAFETY: `own` is this thread's and stays; its count is where `sight` saw it.
    unsafe { *count = counted };
    // It does not matter whether there is Python code under this call. That matters only where other code counts
    // calls of its own in the thread state, as cffi does. Such code uses a thread state that an Ensure made, and
    // there is no Python code under that Ensure.
    thread.legacy.note_quick(counted);
    // SAFETY: `own` is this thread's own thread state, and it is not attached.
    unsafe { py.PyEval_RestoreThread(own) };
    UNLOCKED
}

/// Serves an Ensure that has taken a hold on the main interpreter. The hold is not noted yet. `own`, which is not
/// attached, is NULL or belongs to another interpreter.
#[inline(never)]
fn ensure_uncommonly(py: &'static Api, thread: &'static Thread, own: *mut PyThreadState) -> c_int {
    let legacy = &thread.legacy;
    legacy.note_quick(1);
    if !own.is_null() || legacy.chosen.get().is_some() {
        legacy.leave_quickly(&thread.tally);
        return ensure_somehow();
    }
    let state = make(py, thread, main().interpreter());
    legacy.note_making(state);
    // SAFETY: `state` is this thread's own thread state, and it is not attached.
    unsafe { py.PyEval_RestoreThread(state) };
    UNLOCKED
}

/// Serves an Ensure in all cases: any thread state or none may be attached, and this may be the first call.
#[inline(never)]
pub(super) fn ensure_somehow() -> c_int {
    let py = python::get_or_fatal(ENSURE);
    let usual = State::usual(py);
    if let State::Own(state) = usual {
        if py.is_current(state) {
            // SAFETY: `state` is attached to this thread.
            unsafe {
                *count(state) += 1;
                sight::learn(py, state, main().is_installed());
            }
            request_install(py);
            return LOCKED;
        }
    }
    if begin(py, usual).is_some() {
        UNLOCKED
    } else if copies::hangs() {
        late::end();
    } else {
        FAILED
    }
}

/// Begins an Ensure in a thread with nothing attached. Returns `None` if it is too late.
pub(super) fn begin(py: &'static Api, usual: State) -> Option<*mut PyThreadState> {
    let state = attach(py, usual)?;
    if let State::Own(state) = usual {
        // SAFETY: `state` is attached to this thread.
        unsafe { *count(state) += 1 };
    }
    // SAFETY: `state` is attached to this thread, and known to `PyGILState`.
    unsafe {
        sight::learn(py, state, main().is_installed());
        if let Some(thread) = Thread::known() {
            thread.legacy.note_ensure(*count(state));
        }
    }
    Some(state)
}
