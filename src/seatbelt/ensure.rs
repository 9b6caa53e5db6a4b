//! `PyGILState_Ensure` as the library has it; `release.rs` has `PyGILState_Release`.
//!
//! The two do what CPython's do, by functions that it exports, and count calls where CPython counts them: so a call may begin in
//! one's Ensure and end in the other's Release. What they do besides: an Ensure in a thread with nothing attached holds
//! the interpreter (`enter.rs`, `thread/legacy.rs`), and where it is too late for that, the thread is ended (`exit/late.rs`).

use std::ffi::c_int;

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

/// `state` is attached to this thread, and known to `PyGILState`; or NULL, and nothing is attached.
#[inline(always)]
fn ensure_seeing(state: *mut PyThreadState) -> c_int {
    if state.is_null() {
        return ensure_detached();
    }
    if !main().is_installed() {
        return ensure_somehow();
    }
    // SAFETY: attached to this thread.
    unsafe { *count_in_sight(state) += 1 };
    LOCKED
}

/// With nothing attached, which `sight` has seen.
#[inline(never)]
fn ensure_detached() -> c_int {
    let Some(thread) = Thread::known() else { return ensure_somehow() };
    if !thread.legacy.enter_quickly(&thread.tally) {
        return ensure_somehow();
    }
    let py = python::get_or_fatal(ENSURE);
    let own = sight::own(py);
    let main = main();
    // SAFETY: a thread's last state is not deleted behind its back, but by the end of its interpreter. It has that where it is
    // expected: `sight` has looked there before it saw anything.
    if own.is_null() || !unsafe { is_of(own, main.interpreter()) } {
        return ensure_uncommonly(py, thread, own);
    }
    let count = count_in_sight(own);
    // SAFETY: `own` is this thread's and stays; its count is where `sight` saw it.
    let counted = unsafe { *count } + 1;
    // SAFETY: `own` is this thread's and stays; its count is where `sight` saw it.
    unsafe { *count = counted };
    // Whether there is Python code under it does not matter: who counts calls of its own in a thread state, as cffi
    // does, does so in one that an Ensure made; and that has none.
    thread.legacy.note_quick(counted);
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(own) };
    UNLOCKED
}

/// With the main interpreter held, to be noted still; but `own`, which is not attached, is not of that, or NULL.
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
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(state) };
    UNLOCKED
}

/// Whatever is attached, and whoever is first.
#[inline(never)]
fn ensure_somehow() -> c_int {
    let py = python::get_or_fatal(ENSURE);
    let usual = State::usual(py);
    if let State::Own(state) = usual {
        if py.is_current(state) {
            // SAFETY: attached to this thread.
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

/// An Ensure in a thread with nothing attached. `None`: it is too late.
pub(super) fn begin(py: &'static Api, usual: State) -> Option<*mut PyThreadState> {
    let state = attach(py, usual)?;
    if let State::Own(state) = usual {
        // SAFETY: attached to this thread.
        unsafe { *count(state) += 1 };
    }
    // SAFETY: attached to this thread, and known to `PyGILState`.
    unsafe {
        sight::learn(py, state, main().is_installed());
        if let Some(thread) = Thread::known() {
            thread.legacy.note_ensure(*count(state));
        }
    }
    Some(state)
}
