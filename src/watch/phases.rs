//! Notes when the parts of an exit began.
//!
//! `threading._shutdown` is called through a function of the library, which notes when it begins and ends. A callback
//! of `atexit` notes when the others have run: `atexit` drops it then. Both are installed in the main thread, by a
//! pending call, after a thread has attached.

use core::ffi::{c_int, c_void, CStr};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(pep788_redirects)]
use super::alarm;
use super::disturb;
use super::file::{file, now, File, INSIDE_AT_EXIT};
use crate::os::this_id;
use crate::python::{self, atexit, threading, Api, KeepException, MethodDef, Owned, PyObject};

/// The parts of an exit, by when they begin. `wheel/pep788/_watch.py` has the same numbers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// `threading` joins its threads.
    Joining,
    /// The exit callbacks run.
    Callbacks,
    /// The library waits for guards, and for calls inside `PyGILState_Ensure`.
    Waiting,
    /// The wait is over, and later threads are refused.
    Closed,
    /// All exit callbacks have run. Finalization is about to begin.
    CallbacksOver,
    /// The process ends: libraries are taken down.
    ProcessEnds,
}

/// Notes that a part of the exit begins now, if it has not begun before.
pub(crate) fn begins(phase: Phase) {
    let Some(file) = file() else { return };
    CONDUCTOR.store(this_id(), Ordering::Relaxed);
    let place = &file.phases[phase as usize];
    // Relaxed: only the thread that conducts the exit comes here.
    if place.load(Ordering::Relaxed) == 0 {
        place.store(now(), Ordering::Relaxed);
        disturb::conductor(phase as u64);
        if matches!(phase, Phase::Waiting | Phase::CallbacksOver) {
            note_inside(file);
        }
    }
}

/// Notes which threads are inside a call now.
fn note_inside(file: &File) {
    for slot in &file.threads {
        // Relaxed: a thread that goes meanwhile may be noted, or not.
        if slot.id.load(Ordering::Relaxed) != 0 && slot.is_inside.load(Ordering::Relaxed) != 0 {
            slot.set_flag(INSIDE_AT_EXIT);
        }
    }
}

/// The thread that conducts the exit. 0: there is no exit.
static CONDUCTOR: AtomicU64 = AtomicU64::new(0);

pub(super) fn is_conductor(id: u64) -> bool {
    // Relaxed: the thread itself has stored its number.
    CONDUCTOR.load(Ordering::Relaxed) == id
}

/// Asks the main thread to install what notes the parts of the exit.
pub(crate) fn request(py: &'static Api) {
    static IS_ASKED: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" fn install(_: *mut c_void) -> c_int {
        if let Some(py) = python::get() {
            // SAFETY: CPython makes pending calls in an attached thread.
            unsafe {
                let _exception = KeepException::new(py);
                let _ = install_attached(py);
                py.PyErr_Clear();
            }
        }
        0
    }
    let Some(_file) = file() else { return };
    #[cfg(pep788_redirects)]
    alarm::set(_file);
    // Relaxed: the flag publishes nothing.
    if !IS_ASKED.swap(true, Ordering::Relaxed) && !py.call_in_main(install) {
        IS_ASKED.store(false, Ordering::Relaxed);
    }
}

static SHUTDOWN: MethodDef = MethodDef::any_arguments(
    c"_shutdown",
    shutdown,
    c"Joins the threads of `threading`, and notes when.",
);
static CALLBACK: MethodDef = MethodDef::any_arguments(
    c"pep788_watch",
    callback,
    c"Is dropped when all exit callbacks have run.",
);
const CAPSULE: &CStr = c"pep788.watch";

/// # Safety
/// The calling thread is attached.
unsafe fn install_attached(py: &'static Api) -> Option<()> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        // The program need not have imported it. Without a list the capsule would be dropped at once, which is noted.
        drop(Owned::new(py, py.PyImport_ImportModuleLevel(c"atexit".as_ptr()))?);
        let register = atexit::own_register(py)?;
        let nothing = core::ptr::from_ref(&SHUTDOWN).cast_mut().cast();
        let capsule = Owned::new(py, py.PyCapsule_New(nothing, CAPSULE.as_ptr(), Some(dropped)))?;
        let function = CALLBACK.function(py, &capsule)?;
        drop(capsule);
        register.call(Some(&function))?;
        drop(function);
        threading::replace_shutdown(py, |original| SHUTDOWN.function(py, original))
    }
}

/// Stands for `threading._shutdown`, which `this` is.
unsafe extern "C" fn shutdown(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    let Some(py) = python::get() else { return null_mut() };
    begins(Phase::Joining);
    // SAFETY: CPython calls this attached, with the function that it was made for, a tuple, and a dict or NULL.
    let result = unsafe { py.PyObject_Call(this, arguments, keywords) };
    begins(Phase::Callbacks);
    result
}

unsafe extern "C" fn callback(
    _: *mut PyObject,
    _: *mut PyObject,
    _: *mut PyObject,
) -> *mut PyObject {
    let Some(py) = python::get() else { return null_mut() };
    begins(Phase::Callbacks);
    // SAFETY: CPython calls this in an attached thread.
    unsafe { py.new_none() }
}

unsafe extern "C" fn dropped(_: *mut PyObject) {
    begins(Phase::CallbacksOver);
}
