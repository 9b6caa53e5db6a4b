//! What the functions of both dialects share.

use super::handle::{already_closed, decode, encode, Handle, Kind};
use crate::gate::registry::LOBBY;
use crate::interpreter::first_use::of;
use crate::interpreter::records::view_of_the_dying;
use crate::python::{Api, PyThreadState};
use crate::thread::refusal::Refusal;

/// A guard or strong reference to the attached interpreter; 0 with an exception.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn guard_current(
    py: &'static Api,
    state: *mut PyThreadState,
    kind: Kind,
) -> usize {
    // SAFETY: attached, says the caller.
    let record = match unsafe { of(py, state) } {
        Ok(record) => record,
        // SAFETY: attached, says the caller.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record.take_guard(py) {
        Ok(()) => encode(record, kind),
        // SAFETY: attached, says the caller.
        Err(refusal) => unsafe { raise(py, refusal) },
    }
}

/// A view or weak reference to the attached interpreter; 0 with an exception.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn view_current(
    py: &'static Api,
    state: *mut PyThreadState,
    kind: Kind,
) -> usize {
    // SAFETY: attached, says the caller.
    let record = match unsafe { of(py, state) } {
        Ok(record) => {
            record.add_view();
            Some(record)
        }
        Err(Refusal::Unavailable) => view_of_the_dying(py, state),
        // SAFETY: attached, says the caller.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record {
        Some(record) => encode(record, kind),
        // SAFETY: attached, says the caller.
        None => unsafe { raise(py, Refusal::OutOfMemory) },
    }
}

/// Sets the exception for a refusal; 0 for the caller to return.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn raise(py: &'static Api, refusal: Refusal) -> usize {
    // SAFETY: attached, says the caller.
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
    if strong.record.gate.leave(&LOBBY).is_err() {
        already_closed(function, kind, "");
    }
}

pub(super) fn close_weak(function: &str, handle: usize, kind: Kind) {
    if !decode(function, handle, kind).record.drop_view() {
        already_closed(function, kind, "");
    }
}

/// A handle whose record has no guard out cannot be open.
#[inline]
pub(super) fn open_or_fatal(function: &str, strong: &Handle, kind: Kind) {
    if strong.record.gate.guards() == 0 {
        already_closed(function, kind, "");
    }
}
