//! What the functions of the accepted API and of the draft share.

use super::handle::{already_closed, decode, encode, Handle, Kind};
use crate::gate::registry::LOBBY;
use crate::interpreter::first_use::of;
use crate::interpreter::records::view_of_the_dying;
use crate::python::{Api, PyThreadState};
use crate::thread::refusal::Refusal;

/// Takes a guard of, or a strong reference to, the attached interpreter. Returns 0, with an exception set, if it
/// fails.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn guard_current(
    py: &'static Api,
    state: *mut PyThreadState,
    kind: Kind,
) -> usize {
    // SAFETY: `state` is attached, by this function's contract.
    let record = match unsafe { of(py, state) } {
        Ok(record) => record,
        // SAFETY: `state` is attached, by this function's contract.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record.take_guard(py) {
        Ok(()) => encode(record, kind),
        // SAFETY: `state` is attached, by this function's contract.
        Err(refusal) => unsafe { raise(py, refusal) },
    }
}

/// Makes a view of, or a weak reference to, the attached interpreter. Returns 0, with an exception set, if it
/// fails.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn view_current(
    py: &'static Api,
    state: *mut PyThreadState,
    kind: Kind,
) -> usize {
    // SAFETY: `state` is attached, by this function's contract.
    let record = match unsafe { of(py, state) } {
        Ok(record) => {
            record.add_view();
            Some(record)
        }
        Err(Refusal::Unavailable) => view_of_the_dying(py, state),
        // SAFETY: `state` is attached, by this function's contract.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record {
        Some(record) => encode(record, kind),
        // SAFETY: `state` is attached, by this function's contract.
        None => unsafe { raise(py, Refusal::OutOfMemory) },
    }
}

/// Sets the exception for a refusal. Returns 0, which the caller returns too.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn raise(py: &'static Api, refusal: Refusal) -> usize {
    // SAFETY: the thread is attached, by this function's contract.
    unsafe {
        match refusal {
            Refusal::OutOfMemory => {
                py.PyErr_NoMemory();
            }
            Refusal::Raised(exception) => exception.set(),
            Refusal::Unavailable => py.PyErr_SetString(
                py.finalization_error(),
                c"the interpreter is finalizing and gives no more guards".as_ptr(),
            ),
        }
    }
    0
}

#[inline]
pub(super) fn close_strong(function: &str, handle: usize, kind: Kind) {
    let strong = decode(function, handle, kind);
    if strong.inherited {
        return;
    }
    strong.retire(function, handle, kind);
    if strong.record.leave_guard(strong.stripe, &LOBBY).is_err() {
        already_closed(function, kind, "");
    }
}

pub(super) fn close_weak(function: &str, handle: usize, kind: Kind) {
    if !decode(function, handle, kind).record.drop_view() {
        already_closed(function, kind, "");
    }
}

/// Checks whether a handle can be open. It cannot if no guard is out where the handle is counted: a fatal error.
#[inline]
pub(super) fn open_or_fatal(function: &str, strong: &Handle, kind: Kind) {
    if !strong.record.has_guard(strong.stripe) {
        already_closed(function, kind, "");
    }
}
