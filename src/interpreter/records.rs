//! Finds and makes the record of an interpreter, and ties the record to the interpreter's life.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::gate::record::Record;
use crate::gate::records::Registry;
use crate::gate::registry::{main, registry};
use crate::python::{self, sight, Api, Glance, Owned, PyInterpreterState, PyObject, PyThreadState};
use crate::support::memory::OwnName;
use crate::thread::refusal::Refusal;

/// Returns the record of the interpreter at `address`, if the library was used in it, or if it is the main
/// interpreter.
pub(crate) fn known_at(
    py: &'static Api,
    address: *mut PyInterpreterState,
) -> Option<&'static Record> {
    // SAFETY: needs no thread state.
    if address == unsafe { py.PyInterpreterState_Main() } && !address.is_null() {
        return Some(main());
    }
    registry().find(address.cast())
}

/// Returns whether an attached thread state belongs to the main interpreter.
pub(super) fn is_of_main(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: `state` is attached, so it is alive.
    unsafe { py.PyThreadState_GetInterpreter(state) == py.PyInterpreterState_Main() }
}

/// Returns the record of an interpreter. If there is none, makes one.
pub(super) fn create(
    interpreter: *mut PyInterpreterState,
    id: i64,
    is_main: bool,
) -> Result<&'static Record, Refusal> {
    let mut registry = registry();
    // Another thread of this interpreter may have been faster. Or another interpreter had this address before, and
    // its end was not seen.
    match registry.find(interpreter.cast()) {
        Some(record) if record.id() == id => return Ok(record),
        Some(record) => registry.bury(record),
        None => {}
    }
    if is_main {
        reopen_main(interpreter, &mut registry);
        return Ok(main());
    }
    let record = registry.claim(interpreter.cast(), id).ok_or(Refusal::OutOfMemory)?;
    if main().gate.is_closed() && !main().interpreter().is_null() {
        // The wait of the main interpreter is over, and covers all interpreters.
        record.gate.condemn();
    }
    Ok(record)
}

/// When the main thread was last asked to install the exit callback, by `clock`. It is 0 when the main thread has
/// done so.
pub(super) static REQUESTED: AtomicU64 = AtomicU64::new(0);

/// Forgets requests: they are done. Or, in a forked child, they were never made, because the parent's main thread is
/// not in the child.
pub(crate) fn forget_requests() {
    REQUESTED.store(0, Ordering::Relaxed);
}

/// Begins a new run of the runtime, or the first one, in the main record.
fn reopen_main(interpreter: *mut PyInterpreterState, registry: &mut Registry) {
    Glance::forget_run();
    if !main().interpreter().is_null() {
        sight::forget_run();
    }
    forget_requests();
    registry.reopen_main(interpreter.cast());
}

/// Returns a record for views of an interpreter that is too far gone to be known. Guards on this record are always
/// refused. Returns `None` if memory runs out.
pub(crate) fn view_of_the_dying(
    py: &'static Api,
    state: *mut PyThreadState,
) -> Option<&'static Record> {
    if is_of_main(py, state) {
        // The view is good again if there is another run.
        main().add_view();
        return Some(main());
    }
    registry().claim_for_the_dying()
}

/// Opens the main interpreter's gate, if this is a new run of the runtime.
pub(crate) fn open_main(py: &'static Api) -> Result<(), Refusal> {
    let mut registry = registry();
    // SAFETY: neither call needs a thread state.
    let (initialized, address) =
        unsafe { (py.Py_IsInitialized() != 0, py.PyInterpreterState_Main()) };
    // If no attached thread used the library in a run, nothing tells that this run has ended.
    if !main().interpreter().is_null() && main().interpreter() != address {
        registry.bury(main());
    }
    if !initialized || address.is_null() {
        // The interpreter is not there yet, or it finalizes, or it is gone.
        return Err(Refusal::Unavailable);
    }
    if main().interpreter().is_null() {
        reopen_main(address, &mut registry);
    }
    if main().gate.is_closed() {
        return Err(Refusal::Unavailable);
    }
    Ok(())
}

const CAPSULE: &CStr = c"pep788.record";

/// Puts the record in the interpreter's dict. That dict is emptied while the interpreter is taken apart, before its
/// memory, and so its address, is free.
///
/// # Safety
/// The calling thread is attached to `interpreter`.
pub(super) unsafe fn watch_death(
    py: &'static Api,
    interpreter: *mut PyInterpreterState,
    record: &'static Record,
) -> bool {
    unsafe extern "C" fn died(capsule: *mut PyObject) {
        let Some(py) = python::get() else { return };
        // SAFETY: CPython calls this function in an attached thread, with a capsule made below.
        unsafe {
            let ticket = py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr());
            // The lock is taken before the look at the ticket, because the record stays in that life only under the
            // lock.
            let mut registry = registry();
            if let Some(record) = Record::of_ticket(ticket) {
                registry.bury(record);
            }
        }
    }
    let key = OwnName::new("pep788.record", main());
    // SAFETY: attached, by this function's contract. The dict is borrowed from the living interpreter.
    unsafe {
        let dict = py.PyInterpreterState_GetDict(interpreter);
        if dict.is_null() {
            return false;
        }
        let key = Owned::new(py, py.PyUnicode_FromString(key.as_c_str().as_ptr()));
        let capsule = Owned::new(py, py.PyCapsule_New(record.ticket(), CAPSULE.as_ptr(), None));
        let (Some(key), Some(capsule)) = (key, capsule) else { return false };
        // This is done in one step, because another thread may be here as well. Only the capsule that is kept
        // reports.
        let kept = py.PyDict_SetDefault(dict, key.as_ptr(), capsule.as_ptr());
        if kept == capsule.as_ptr() {
            return py.PyCapsule_SetDestructor(kept, Some(died)) == 0;
        }
        // A capsule of an earlier life of the record belongs to this interpreter all the same.
        !kept.is_null() && py.PyCapsule_SetPointer(kept, record.ticket()) == 0
    }
}
