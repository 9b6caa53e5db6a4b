//! An interpreter that is named by its address.

use super::first_use::{of, visit};
use super::records::{create, known_at};
use crate::gate::record::Record;
use crate::gate::registry::registry;
use crate::python::{self, Api, PyInterpreterState, PyThreadState};

/// Whether an interpreter at an address, if there is one, is alive for as long as the call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    /// The caller says so.
    Promised,
    Unknown,
}

/// The record of the interpreter at `address`, if such an interpreter is alive.
///
/// `attached` is the calling thread's attached thread state, or NULL.
pub(crate) fn by_address(
    py: &'static Api,
    address: *mut PyInterpreterState,
    attached: *mut PyThreadState,
    stays: Stays,
) -> Option<&'static Record> {
    let known = known_at(py, address);
    if attached.is_null() || known.is_some_and(Record::is_main) {
        return known;
    }
    // SAFETY: `attached` is attached.
    unsafe {
        if py.PyThreadState_GetInterpreter(attached) == address {
            return of(py, attached).ok();
        }
    }
    if known.is_some() {
        return known;
    }
    // Never used from inside. Another thread may be about to end it. Where it may have a GIL of its own, even its memory may
    // go while it is looked at.
    if stays == Stays::Unknown && !py.has_one_gil() {
        return None;
    }
    // SAFETY: attached.
    let id = unsafe { python::live_interpreter(py, address) }?;
    // Attaching to it may give up the GIL, and CPython ends the process where an end finds a thread state too many.
    // SAFETY: attached; alive, as the GIL is not given up in between.
    if stays == Stays::Unknown && !unsafe { python::is_made_here(py, address) } {
        return None;
    }
    let record = create(address, id, false).ok()?;
    let life = record.life();
    if !visit(py, record) {
        let mut registry = registry();
        // Unless its death was seen meanwhile.
        if record.life() == life {
            registry.bury(record);
        }
        return None;
    }
    Some(record)
}
