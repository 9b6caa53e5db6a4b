//! Whether the attached thread state keeps its interpreter from finalizing, and how that changes.
//!
//! A thread state is non-daemon while it holds a guard. It holds one because of the Ensure that it is in, or because
//! of `SetDaemon(0)`. It is non-daemon too if `threading` joins its thread.

use alloc::boxed::Box;
use core::ffi::{c_void, CStr};
use core::sync::atomic::Ordering;

use crate::gate::record::Record;
use crate::gate::registry::LOBBY;
use crate::os::clock;
use crate::python::{self, Api, KeepException, Owned, PyObject, PyThreadState};
use crate::support::memory::{try_box, OwnName};
use crate::thread::attached::{attached, innermost_in, is_inside, levels};
use crate::thread::hold::Hold;
use crate::thread::levels::{depth, LetGo, Level};
use crate::thread::thread::Thread;
use crate::trace::note::another_hold;

const KEPT: &CStr = c"pep788.non_daemon";

/// Returns the key in the thread state's dict, which is emptied when the thread state is cleared.
fn key() -> OwnName {
    OwnName::new("pep788.non_daemon", &LOBBY)
}

/// Returns whether the calling thread keeps this interpreter from finalizing, as far as the library can see. It does
/// if it is inside an Ensure of the interpreter, or if it is attached to the interpreter with a thread state that
/// holds it.
pub(crate) fn is_holder(py: &'static Api, record: &'static Record) -> bool {
    if is_inside(record) {
        return true;
    }
    let state = attached(py);
    // SAFETY: `state` is attached, unless it is NULL.
    unsafe {
        !state.is_null()
            && py.PyThreadState_GetInterpreter(state) == record.interpreter()
            && holds_by_itself(py) == Some(true)
    }
}

pub(crate) fn holds_in_ensure(state: *mut PyThreadState) -> bool {
    levels().any(|level| level.state == state && level.hold.is_some_and(|hold| hold.is_valid()))
}

/// Drops all holds of the thread state. The holds of outer Ensures, and the hold of the thread state itself, come
/// back with the Release of the innermost Ensure: see [`LetGo`].
///
/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn let_go(py: &'static Api, state: *mut PyThreadState) -> bool {
    // The steps that can fail come first.
    // SAFETY: attached, by this function's contract.
    let Some(kept) = (unsafe { holds_by_itself(py) }) else { return false };
    if kept {
        // SAFETY: attached, by this function's contract. The dict is borrowed from the thread state.
        unsafe {
            let dict = py.PyThreadState_GetDict();
            if py.PyDict_DelItemString(dict, key().as_c_str().as_ptr()) != 0 {
                py.PyErr_Clear();
                return false;
            }
        }
    }
    let Some(thread) = Thread::known() else { return true };
    let levels = &thread.levels;
    let own_depth = depth(levels.len());
    let in_its_ensure = innermost_in(state).map(|(_, innermost)| innermost);
    let mut outer = false;
    for index in 0..levels.len() {
        let Some(level) = levels.get(index).filter(|level| level.state == state) else { continue };
        if let Some(hold) = levels.take_hold(index) {
            let _ = hold.give_back();
            if in_its_ensure.is_some() && depth(index + 1) != own_depth {
                levels.set_let_go(index, LetGo { inside: own_depth, ..level.let_go });
                outer = true;
            }
        }
    }
    if let Some((index, level)) = in_its_ensure.and_then(|index| Some(index).zip(levels.get(index)))
    {
        let what = if outer { LetGo::OUTER } else { 0 } | if kept { LetGo::KEPT } else { 0 };
        levels.set_let_go(index, LetGo { what: level.let_go.what | what, ..level.let_go });
    }
    true
}

/// Takes again the holds that [`let_go`] dropped, where the interpreter still allows it.
///
/// # Safety
/// This is called in the Release of `released`, right after that level left the stack. It was the innermost level,
/// and its thread state is attached.
pub(crate) unsafe fn give_again(py: &'static Api, released: &Level) {
    let taken = released.let_go;
    if taken.is_nothing() {
        return;
    }
    let Some(thread) = Thread::known() else { return };
    let levels = &thread.levels;
    let its_depth = depth(levels.len() + 1);
    for index in 0..levels.len() {
        let Some(level) = levels.get(index).filter(|level| level.let_go.inside == its_depth) else {
            continue;
        };
        levels.set_let_go(index, LetGo { inside: 0, ..level.let_go });
        // With tracing on this runs Python code. That code may come back to the library, and has left it again when
        // this returns.
        levels.set_hold(index, another_hold(released.record));
    }
    if taken.what & LetGo::KEPT != 0 {
        if let Some(hold) = another_hold(released.record) {
            // SAFETY: attached, by this function's contract.
            unsafe { keep(py, hold) };
        }
    }
}

/// Puts the hold in the thread state's dict. Clearing the thread state drops the hold from there.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn keep(py: &'static Api, hold: Hold) -> bool {
    unsafe extern "C" fn dropped(capsule: *mut PyObject) {
        let Some(py) = python::get() else { return };
        // SAFETY: the capsule is made below, and nobody else frees its hold.
        unsafe {
            let hold = py.PyCapsule_GetPointer(capsule, KEPT.as_ptr()).cast::<Hold>();
            if !hold.is_null() {
                let hold = Box::from_raw(hold);
                // Relaxed: the return of the hold, which follows, publishes this to the thread that waits for the
                // hold.
                hold.record().dropped.store(clock(), Ordering::Relaxed);
                let _ = hold.give_back();
            }
        }
    }
    let Some(boxed) = try_box(hold) else {
        let _ = hold.give_back();
        return false;
    };
    let hold = Box::into_raw(boxed);
    // SAFETY: attached, by this function's contract. The dict is borrowed from the thread state.
    unsafe {
        let _exception = KeepException::new(py);
        let capsule = py.PyCapsule_New(hold.cast::<c_void>(), KEPT.as_ptr(), Some(dropped));
        let Some(capsule) = Owned::new(py, capsule) else {
            let _ = Box::from_raw(hold).give_back();
            py.PyErr_Clear();
            return false;
        };
        let dict = py.PyThreadState_GetDict();
        let kept = !dict.is_null()
            && py.PyDict_SetItemString(dict, key().as_c_str().as_ptr(), capsule.as_ptr()) == 0;
        if !kept {
            py.PyErr_Clear();
        }
        kept
    }
}

/// Returns whether a thread state of the interpreter may be about to be deleted. A thread state drops what it holds
/// while it is cleared. It is deleted right after that, and nothing tells when. Finalization must not come in
/// between.
pub(crate) fn is_one_leaving(record: &Record) -> bool {
    const LEAVING_MS: u64 = 20;
    // Relaxed: the hold was given back after this was stored, and that publishes this to the thread that waited for
    // the hold.
    let dropped = record.dropped.load(Ordering::Relaxed);
    dropped != 0 && clock() < dropped + LEAVING_MS
}

/// Returns whether the attached thread state holds a guard by itself, outside of any Ensure. Returns `None` if memory
/// runs out. Leaves the exception that is set.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn holds_by_itself(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, by this function's contract. All references but the key's are borrowed.
    unsafe {
        let _exception = KeepException::new(py);
        let dict = py.PyThreadState_GetDict();
        if dict.is_null() {
            return None;
        }
        let key = Owned::new(py, py.PyUnicode_FromString(key().as_c_str().as_ptr()));
        let capsule = key.map(|key| py.PyDict_GetItemWithError(dict, key.as_ptr()));
        if !py.PyErr_Occurred().is_null() {
            py.PyErr_Clear();
            return None;
        }
        let Some(capsule) = capsule.filter(|capsule| !capsule.is_null()) else {
            return Some(false);
        };
        let hold = py.PyCapsule_GetPointer(capsule, KEPT.as_ptr()).cast::<Hold>();
        Some(!hold.is_null() && (*hold).is_valid())
    }
}
