//! Daemon-ness of the attached thread state: whether it keeps its interpreter from finalizing.
//!
//! A thread state is non-daemon while it holds a guard: because of the Ensure it is in, or
//! because of `SetDaemon(0)`, or because `threading` joins its thread.

use std::ffi::{c_void, CStr};
use std::sync::atomic::Ordering;

use crate::attach::{self, Hold};
use crate::interpreter::{self, clock, Record, LOBBY};
use crate::memory::{try_box, OwnName};
use crate::python::{self, threading, Api, KeepException, Owned, PyObject, PyThreadState};
use crate::thread::Thread;

const KEPT: &CStr = c"pep788.non_daemon";

/// The key in the thread state's dict, which is emptied when the thread state is cleared.
fn key() -> OwnName {
    OwnName::new("pep788.non_daemon", &LOBBY)
}

/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn get(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        !(holds_in_ensure(state) || holds_by_itself(py) == Some(true) || is_joined(py, state))
    }
}

/// `false`: cannot be, or out of memory.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn set(py: &'static Api, state: *mut PyThreadState, daemon: bool) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        if is_main_thread(py, state) {
            return false;
        }
        if daemon {
            // `threading` waits for its non-daemon threads whatever we say, and refuses the
            // same change.
            return !is_joined(py, state) && let_go(py, state);
        }
        if holds_in_ensure(state) {
            return true;
        }
        match holds_by_itself(py) {
            Some(false) => {}
            held => return held.is_some(),
        }
        let Ok(record) = interpreter::of(py, state) else {
            return false;
        };
        if record.take_guard(py).is_err() {
            return false;
        }
        let hold = Hold::of(record);
        // Inside an Ensure it lasts until the Release, which restores what was before.
        match attach::innermost_in(state) {
            Some((levels, index)) => {
                levels.set_hold(index, Some(hold));
                true
            }
            None => keep(py, hold),
        }
    }
}

/// Whether the calling thread keeps this interpreter from finalizing, as far as it is to be seen:
/// it is inside an Ensure of it, or attached to it with a thread state that holds it.
pub(crate) fn is_holder(py: &'static Api, record: &'static Record) -> bool {
    if attach::is_inside(record) {
        return true;
    }
    let state = attach::attached(py);
    // SAFETY: `state` is attached.
    unsafe {
        !state.is_null()
            && py.PyThreadState_GetInterpreter(state) == record.interpreter()
            && holds_by_itself(py) == Some(true)
    }
}

fn holds_in_ensure(state: *mut PyThreadState) -> bool {
    attach::levels()
        .any(|level| level.state == state && level.hold.is_some_and(|hold| hold.is_valid()))
}

/// Drops all that the thread state holds. What an outer Ensure held, or the thread state by
/// itself, comes back with the Release of the innermost one: see [`LetGo`].
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn let_go(py: &'static Api, state: *mut PyThreadState) -> bool {
    // What can fail comes first.
    // SAFETY: attached, says the caller.
    let Some(kept) = (unsafe { holds_by_itself(py) }) else { return false };
    if kept {
        // SAFETY: as above; the dict is borrowed from the thread state.
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
    let depth = depth(levels.len());
    let in_its_ensure = attach::innermost_in(state).map(|(_, innermost)| innermost);
    let mut outer = false;
    for index in 0..levels.len() {
        let Some(level) = levels.get(index).filter(|level| level.state == state) else { continue };
        if let Some(hold) = levels.take_hold(index) {
            let _ = hold.give_back();
            if in_its_ensure.is_some() && self::depth(index + 1) != depth {
                levels.set_let_go(index, LetGo { inside: depth, ..level.let_go });
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

/// What `SetDaemon(1)` inside an Ensure took from around it, for the Release to give back.
#[derive(Clone, Copy, Default)]
pub(crate) struct LetGo {
    /// This level's own hold was taken: at this depth, with 1 for the outermost Ensure.
    inside: u16,
    /// Inside this level were taken [`LetGo::OUTER`] and [`LetGo::KEPT`].
    what: u16,
}

/// So many Ensures deep; beyond 65,535 all is one.
fn depth(levels: usize) -> u16 {
    u16::try_from(levels).unwrap_or(u16::MAX)
}

impl LetGo {
    /// Holds of outer levels.
    const OUTER: u16 = 1;
    /// What the thread state kept by itself.
    const KEPT: u16 = 2;

    /// Nothing was taken inside this level.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.what == 0
    }

    /// Nor from it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.what == 0 && self.inside == 0
    }

    /// Gives back what [`let_go`] took, where the interpreter still allows it.
    ///
    /// # Safety
    /// Called in the Release of the innermost level, right after it left the stack, with its thread
    /// state attached.
    pub(crate) unsafe fn undo(&self, py: &'static Api, record: &'static Record) {
        if self.is_nothing() {
            return;
        }
        let Some(thread) = Thread::known() else { return };
        let levels = &thread.levels;
        let depth = depth(levels.len() + 1);
        for index in 0..levels.len() {
            let Some(level) = levels.get(index).filter(|level| level.let_go.inside == depth) else {
                continue;
            };
            levels.set_let_go(index, LetGo { inside: 0, ..level.let_go });
            // With tracing on this runs Python code, which may come back here, and has gone again after it.
            levels.set_hold(index, Hold::another(record));
        }
        if self.what & LetGo::KEPT != 0 {
            if let Some(hold) = Hold::another(record) {
                // SAFETY: attached, says the caller.
                unsafe { keep(py, hold) };
            }
        }
    }
}

/// Hangs the hold in the thread state's dict, from which clearing the thread state drops it.
///
/// # Safety
/// The calling thread is attached.
unsafe fn keep(py: &'static Api, hold: Hold) -> bool {
    unsafe extern "C" fn dropped(capsule: *mut PyObject) {
        let Some(py) = python::get() else { return };
        // SAFETY: a capsule made below, whose hold nobody else frees.
        unsafe {
            let hold = py.PyCapsule_GetPointer(capsule, KEPT.as_ptr()).cast::<Hold>();
            if !hold.is_null() {
                let hold = Box::from_raw(hold);
                // Relaxed: giving the hold back brings it to who waits for that.
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
    // SAFETY: attached, says the caller; the dict is borrowed from the thread state.
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

/// Whether a thread state of the interpreter may be about to be deleted: it drops what it holds while
/// it is cleared, and is deleted right after, which nothing tells. Finalization must not come in
/// between.
pub(crate) fn is_one_leaving(record: &Record) -> bool {
    const LEAVING_MS: u64 = 20;
    // Relaxed: the hold itself, given back after this was stored, brings it to who waited for it.
    let dropped = record.dropped.load(Ordering::Relaxed);
    dropped != 0 && clock() < dropped + LEAVING_MS
}

/// `None`: out of memory. Leaves the exception that is set.
///
/// # Safety
/// The calling thread is attached.
unsafe fn holds_by_itself(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, says the caller; all references but the key's are borrowed.
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

/// Whether the exit joins this thread: the interpreter's main thread, or one that `threading`
/// started as non-daemon.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_joined(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, says the caller.
    unsafe { is_main_thread(py, state) || threading::is_daemon(py) == Some(false) }
}

/// Whether this is the thread that the interpreter ends with: of a subinterpreter, the one it was made with. Not by the list
/// of thread states, which without a GIL changes meanwhile.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn is_main_thread(py: &'static Api, state: *mut PyThreadState) -> bool {
    if attach::was_created(state) {
        return false;
    }
    /// CPython counts the thread states of each interpreter.
    const FIRST: u64 = 1;
    // SAFETY: attached, says the caller.
    unsafe {
        let interpreter = py.PyThreadState_GetInterpreter(state);
        if interpreter == py.PyInterpreterState_Main() {
            if let Some(is_main) = py._PyOS_IsMainThread() {
                return is_main != 0;
            }
        }
        py.PyThreadState_GetID(state) == FIRST
    }
}
