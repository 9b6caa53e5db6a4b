//! The C ABI and nothing else: argument checks, the conventions for failure, and the comments
//! that become the headers.
//!
//! What the functions of both dialects share is here: they differ in names and in how they
//! answer, not in what they do.
//!
//! Nothing in the crate calls an exported function, or trusts its address: the loader may bind
//! our own reference to what is found first under that name, in the interpreter or in another copy of
//! the library. What the accepted ones do is in private functions next to them.

// The contract of each function is in its comment, for C programmers.
#![allow(clippy::missing_safety_doc, non_camel_case_types)]

mod accepted;
mod doctor;
mod draft;
mod ensure;
mod gilstate;
mod handle;
mod quick;

pub use accepted::*;
pub use doctor::*;
pub use draft::*;
pub use ensure::*;
pub use gilstate::*;

use crate::interpreter::{self, Refusal, LOBBY};
use crate::python::{fatal, Api, PyThreadState};
use handle::{decode, encode, Handle, Kind};

/// A guard or strong reference to the attached interpreter; 0 with an exception.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn guard_current(py: &'static Api, state: *mut PyThreadState, kind: Kind) -> usize {
    // SAFETY: attached, says the caller.
    let record = match unsafe { interpreter::of(py, state) } {
        Ok(record) => record,
        // SAFETY: as above.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record.take_guard(py) {
        Ok(()) => encode(record, kind),
        // SAFETY: as above.
        Err(refusal) => unsafe { raise(py, refusal) },
    }
}

/// A view or weak reference to the attached interpreter; 0 with an exception.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn view_current(py: &'static Api, state: *mut PyThreadState, kind: Kind) -> usize {
    // SAFETY: attached, says the caller.
    let record = match unsafe { interpreter::of(py, state) } {
        Ok(record) => {
            record.add_view();
            Some(record)
        }
        Err(Refusal::Unavailable) => interpreter::view_of_the_dying(py, state),
        // SAFETY: as above.
        Err(refusal) => return unsafe { raise(py, refusal) },
    };
    match record {
        Some(record) => encode(record, kind),
        // SAFETY: as above.
        None => unsafe { raise(py, Refusal::OutOfMemory) },
    }
}

/// Sets the exception for a refusal; 0 for the caller to return.
///
/// # Safety
/// The calling thread is attached.
unsafe fn raise(py: &'static Api, refusal: Refusal) -> usize {
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
fn close_strong(function: &str, handle: usize, kind: Kind) {
    let strong = decode(function, handle, kind);
    if strong.inherited {
        return;
    }
    strong.retire(function, handle, kind);
    if strong.record.gate.leave(&LOBBY).is_err() {
        already_closed(function, kind, "");
    }
}

fn close_weak(function: &str, handle: usize, kind: Kind) {
    if !decode(function, handle, kind).record.drop_view() {
        already_closed(function, kind, "");
    }
}

/// A handle whose record has no guard out cannot be open.
#[inline]
fn open_or_fatal(function: &str, strong: &Handle, kind: Kind) {
    if strong.record.gate.guards() == 0 {
        already_closed(function, kind, "");
    }
}

/// `trace`: what is known of it, as further lines.
#[cold]
fn already_closed(function: &str, kind: Kind, trace: &str) -> ! {
    fatal(function, &format!("this {} is closed already; each is closed once{trace}", kind.name()))
}
