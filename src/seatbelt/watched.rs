//! The redirected functions of a process that is watched: they note who calls, and go on as always.
//!
//! If the process is only watched, no exit waits and no thread is ended: calls do what CPython's own functions do.

use core::ffi::c_int;

use super::call::{count, while_alive, ACQUIRE, DELETE, ENSURE, LOCKED, RELEASE, UNLOCKED};
use super::{ensure, release, scopes};
use crate::python::{self, PyThreadState};
use crate::watch::file::is_only_watched;
use crate::watch::threads::{arrives, goes, is_in, is_out, Way};

pub(super) unsafe extern "C" fn ensure() -> c_int {
    let py = python::get_or_fatal(ENSURE);
    let slot = arrives(py, Way::Ensure);
    let before = if is_only_watched() {
        ensure::ensure_somehow()
    } else {
        // SAFETY: the caller promises what CPython's own function asks for.
        unsafe { ensure::ensure() }
    };
    if let Some(slot) = slot.filter(|_| before != LOCKED) {
        is_in(py, slot);
    }
    before
}

pub(super) unsafe extern "C" fn release(before: c_int) {
    let slot = if before == UNLOCKED { goes(python::get_or_fatal(RELEASE)) } else { None };
    // SAFETY: the caller promises what CPython's own function asks for.
    unsafe { release::release(before) };
    if let Some(slot) = slot {
        is_out(slot);
    }
}

pub(super) unsafe extern "C" fn acquire_thread(state: *mut PyThreadState) {
    let py = python::get_or_fatal(ACQUIRE);
    // Threads of Python begin by this function too, and stay attached until they give the GIL up by themselves.
    // SAFETY: the caller may attach this thread state, so it is the caller's own.
    let count = |state| while_alive(py, || unsafe { *count(state) });
    let is_scope = !state.is_null() && count(state).unwrap_or(0) == 0;
    let slot = if is_scope { arrives(py, Way::Scope) } else { None };
    // SAFETY: the caller promises what CPython's own function asks for.
    unsafe { scopes::acquire_thread(state) };
    if let Some(slot) = slot {
        is_in(py, slot);
    }
}

pub(super) unsafe extern "C" fn delete_current() {
    let slot = goes(python::get_or_fatal(DELETE));
    // SAFETY: the caller promises what CPython's own function asks for.
    unsafe { scopes::delete_current() };
    if let Some(slot) = slot {
        is_out(slot);
    }
}
