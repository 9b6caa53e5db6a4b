//! `PyGILState_Release` of the library: detaches a thread, and gives its hold back.
//!
//! `ensure.rs` explains what the two functions do.

use alloc::format;
use core::ffi::c_int;
use core::ptr::null_mut;

use super::call::{count, count_in_sight, delete, FAILED, LOCKED, RELEASE, UNLOCKED};
use crate::python::{self, sight, states, PyThreadState};
use crate::thread::thread::Thread;

pub(super) unsafe extern "C" fn release(before: c_int) {
    match sight::attached() {
        Some(state) => release_seeing(before, state),
        None => release_by_key(before),
    }
}

#[inline(never)]
fn release_by_key(before: c_int) {
    match sight::attached_by_key() {
        Some(state) => release_seeing(before, state),
        None => release_somehow(before),
    }
}

/// Serves a Release. `state` is attached to this thread, and known to `PyGILState`. If `state` is NULL, nothing is
/// attached.
#[inline(always)]
fn release_seeing(before: c_int, state: *mut PyThreadState) {
    if state.is_null() {
        return release_somehow(before);
    }
    let count = count_in_sight(state);
    // SAFETY: `state` is attached to this thread, and its count is where `sight` saw it.
    let counted = unsafe { *count };
    if before == LOCKED && counted != 1 {
        // SAFETY: `state` is attached to this thread, which alone changes its count.
        unsafe { *count = counted - 1 };
        return;
    }
    match Thread::known() {
        Some(thread) if before == UNLOCKED && thread.legacy.is_quick(counted) => {
            release_quick(thread, state, count);
        }
        _ => release_somehow(before),
    }
}

/// Serves the Release of an Ensure that took a hold the quick way.
#[inline(never)]
fn release_quick(thread: &Thread, state: *mut PyThreadState, count: *mut c_int) {
    let made = thread.legacy.has_made(state);
    // SAFETY: `count` is the count of the thread state that is attached to this thread.
    let counted = unsafe { *count };
    if made || counted == 1 {
        return if made && counted == 1 {
            release_made(thread, state, count);
        } else {
            // Either other code keeps a thread state that an Ensure made, or this is the last call, and it is not
            // the call that made the thread state.
            release_somehow(UNLOCKED);
        };
    }
    // SAFETY: `state` is attached to this thread until `PyEval_SaveThread` detaches it, and `count` is its count.
    unsafe {
        *count = counted - 1;
        python::get_or_fatal(RELEASE).PyEval_SaveThread();
    }
    thread.legacy.leave_quickly(&thread.tally);
}

/// Serves the same Release if that Ensure made the thread state.
#[inline(never)]
fn release_made(thread: &Thread, state: *mut PyThreadState, count: *mut c_int) {
    let py = python::get_or_fatal(RELEASE);
    let legacy = &thread.legacy;
    // SAFETY: `state` is attached to this thread until one of the calls below deletes or detaches it. `count` is its
    // count.
    unsafe {
        // One call is still counted, for destructors that use the two functions.
        py.PyThreadState_Clear(state);
        *count = 0;
        if !legacy.is_quick(1) {
            // The destructors did more than use the two functions.
            delete(py, state);
            legacy.note_deletion(&thread.tally, state);
            return legacy.give_back(&thread.tally);
        }
        if !states::get().delete_current(state) {
            // This takes two steps, see `delete`. The interpreter is held in between.
            py.PyEval_SaveThread();
            py.PyThreadState_Delete(state);
        }
    }
    legacy.note_making(null_mut());
    legacy.leave_quickly(&thread.tally);
}

/// Serves a Release in all cases, whatever is attached.
#[inline(never)]
fn release_somehow(before: c_int) {
    if before == FAILED {
        return;
    }
    let py = python::get_or_fatal(RELEASE);
    // SAFETY: `PyGILState_GetThisThreadState` reads thread-local storage only.
    let state = unsafe { py.PyGILState_GetThisThreadState() };
    if state.is_null() {
        let rule = "auto-releasing thread-state, but no thread-state for this thread";
        python::fatal(RELEASE, rule);
    }
    if !py.is_current(state) {
        let rule = format!("thread state {state:p} must be current when releasing");
        python::fatal(RELEASE, &rule);
    }
    let thread = Thread::known();
    // SAFETY: `state` is attached to this thread until `delete` or `PyEval_SaveThread` detaches it.
    unsafe {
        *count(state) -= 1;
        let is_last = *count(state) == 0;
        if !is_last && before != UNLOCKED {
            return;
        }
        let over_python = !is_last && !py.PyEval_GetFrame().is_null();
        if is_last || thread.is_some_and(|t| t.legacy.goes_nevertheless(state, over_python)) {
            // One call is still counted, for destructors that use the two functions.
            *count(state) = 1;
            py.PyThreadState_Clear(state);
            *count(state) = 0;
            delete(py, state);
            if let Some(thread) = thread {
                thread.legacy.note_deletion(&thread.tally, state);
            }
        } else {
            py.PyEval_SaveThread();
            sight::choose_place();
        }
        if let Some(thread) = thread {
            thread.legacy.note_release(&thread.tally, over_python);
        }
    }
}
