//! Finds the record of an interpreter that is named by its address.

use super::first_use::{of, visit};
use super::records::{create, known_at};
use crate::gate::record::Record;
use crate::gate::registry::registry;
use crate::python::{self, Api, PyInterpreterState, PyThreadState};

/// Whether an interpreter at an address, if there is one, is alive for as long as the call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    /// The caller promises it.
    Promised,
    Unknown,
}

/// Returns the record of the interpreter at `address`, if such an interpreter is alive.
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
    // SAFETY: `attached` is attached to the calling thread.
    unsafe {
        if py.PyThreadState_GetInterpreter(attached) == address {
            return of(py, attached).ok();
        }
    }
    if known.is_some() {
        return known;
    }
    // The library was never used inside this interpreter. Another thread may be about to end the interpreter. Where
    // the interpreter may have a GIL of its own, even its memory may be freed while it is looked at.
    if stays == Stays::Unknown && !py.has_one_gil() {
        return None;
    }
    // SAFETY: the thread is attached, as `attached` is not NULL.
    let id = unsafe { python::live_interpreter(py, address) }?;
    // Attaching to the interpreter may give up the GIL. CPython ends the process if the end of an interpreter finds a
    // thread state too many.
    // SAFETY: the thread is attached. The interpreter is alive, because the GIL is not given up in between.
    if stays == Stays::Unknown && !unsafe { python::is_made_here(py, address) } {
        return None;
    }
    let record = create(address, id, false).ok()?;
    let life = record.life();
    if !visit(py, record) {
        let mut registry = registry();
        // The record is buried here, unless the end of its interpreter was seen meanwhile.
        if record.life() == life {
            registry.bury(record);
        }
        return None;
    }
    Some(record)
}
