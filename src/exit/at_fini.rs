//! Callbacks of `PyThreadState_SetFiniCallback`, which run when an interpreter's exit begins to wait.

use alloc::vec::Vec;
use core::ffi::{c_int, c_void, CStr};
use core::ptr::null_mut;

use crate::gate::record::Record;
use crate::python::{self, Api, KeepException, Owned, PyObject, PyThreadState};
use crate::support::memory::OwnName;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::thread::refusal::Refusal;

pub(crate) type Callback = unsafe extern "C" fn(*mut PyThreadState, *mut c_void) -> c_int;

/// A callback to run when the exit of an interpreter begins to wait.
pub(crate) struct AtFini {
    state: *mut PyThreadState,
    record: &'static Record,
    life: usize,
    callback: Callback,
    argument: *mut c_void,
}

// SAFETY: the library only compares `state`, and passes both pointers to the callback. The callback deals with them,
// in the thread that finalizes, whichever that is.
unsafe impl Send for AtFini {}

static AT_FINI: Mutex<Vec<AtFini>> = Mutex::new(Vec::new());

fn at_fini() -> MutexGuard<'static, Vec<AtFini>> {
    lock(&AT_FINI)
}

/// Takes the lock of the callbacks for the time of a fork.
pub(crate) fn hold() -> MutexGuard<'static, Vec<AtFini>> {
    at_fini()
}

const CAPSULE: &CStr = c"pep788.at_fini";

/// Sets the callback of a thread state, which has at most one. `None` removes the callback.
///
/// # Safety
/// `state` is attached to the calling thread, and belongs to the record's interpreter.
pub(crate) unsafe fn set(
    py: &'static Api,
    state: *mut PyThreadState,
    record: &'static Record,
    callback: Option<(Callback, *mut c_void)>,
) -> Result<(), Refusal> {
    if record.gate.is_closed() {
        return Err(Refusal::Unavailable);
    }
    let Some((callback, argument)) = callback else {
        forget(state);
        return Ok(());
    };
    // SAFETY: attached, by this function's contract.
    unsafe { watch_death(py, state) }?;
    let mut all = at_fini();
    all.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
    all.push(AtFini { state, record, life: record.life(), callback, argument });
    Ok(())
}

fn forget(state: *mut PyThreadState) {
    at_fini().retain(|entry| entry.state != state);
}

/// Puts a capsule in the thread state's dict. Its destructor forgets the callback before another thread state can
/// have the same address.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn watch_death(py: &'static Api, state: *mut PyThreadState) -> Result<(), Refusal> {
    unsafe extern "C" fn died(capsule: *mut PyObject) {
        if let Some(py) = python::get() {
            // SAFETY: CPython calls this function in an attached thread, with a capsule made below.
            forget(unsafe { py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()) }.cast());
        }
    }
    // SAFETY: attached, by this function's contract. The dict is borrowed.
    unsafe {
        let _exception = KeepException::new(py);
        let key = OwnName::new("pep788.at_fini", &AT_FINI);
        let dict = py.PyThreadState_GetDict();
        // The new capsule replaces one that was there before. The destructor of the old capsule forgets the callback
        // that it watched.
        let capsule = Owned::new(py, py.PyCapsule_New(state.cast(), CAPSULE.as_ptr(), Some(died)));
        let done = capsule.filter(|_| !dict.is_null()).is_some_and(|capsule| {
            py.PyDict_SetItemString(dict, key.as_c_str().as_ptr(), capsule.as_ptr()) == 0
        });
        py.PyErr_Clear();
        if done {
            Ok(())
        } else {
            Err(Refusal::OutOfMemory)
        }
    }
}

/// Runs the callbacks that were set for thread states of the interpreters that `covers` selects, each once. The exit
/// of these interpreters begins to wait, in this thread.
///
/// # Safety
/// The calling thread is attached, with no exception set.
pub(crate) unsafe fn run(py: &'static Api, covers: impl Fn(&'static Record) -> bool) {
    loop {
        let next = {
            let mut all = at_fini();
            let found = all
                .iter()
                .position(|entry| entry.life == entry.record.life() && covers(entry.record));
            found.map(|index| all.remove(index))
        };
        let Some(entry) = next else { return };
        // SAFETY: attached, by this function's contract. The callback is called as it was promised when it was set.
        unsafe {
            if (entry.callback)(entry.state, entry.argument) != 0 && !py.PyErr_Occurred().is_null()
            {
                py.PyErr_WriteUnraisable(null_mut());
            }
            py.PyErr_Clear();
        }
    }
}
