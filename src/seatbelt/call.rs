//! What the redirected functions share: attaching, making and deleting the thread state of a call.

use core::ffi::c_int;

use super::enter::enter;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::{main, LOBBY};
use crate::interpreter::first_use;
use crate::interpreter::records::{known_at, open_main};
use crate::python::{self, states, Api, PyInterpreterState, PyThreadState};
use crate::thread::birth;
use crate::thread::legacy::Until;
use crate::thread::thread::Thread;
use crate::watch::file::is_only_watched;

pub(super) const LOCKED: c_int = 0;
pub(super) const UNLOCKED: c_int = 1;
/// Neither of the two values that CPython's Ensure returns.
pub(crate) const FAILED: c_int = 2;

pub(super) const ENSURE: &str = "PyGILState_Ensure";
pub(super) const RELEASE: &str = "PyGILState_Release";
pub(super) const NEW: &str = "PyThreadState_New";
pub(super) const ACQUIRE: &str = "PyEval_AcquireThread";
pub(super) const DELETE: &str = "PyThreadState_DeleteCurrent";

/// Returns the count of calls in a thread state, which is the calling thread's own.
pub(super) unsafe fn count<'a>(state: *mut PyThreadState) -> &'a mut c_int {
    // SAFETY: the caller promises that `state` is the calling thread's own. Only that thread uses the count.
    unsafe { &mut *states::get().count(state) }
}

/// Returns the same count of a thread state that `sight` saw.
#[inline(always)]
pub(super) fn count_in_sight(state: *mut PyThreadState) -> *mut c_int {
    state.wrapping_byte_add(states::counter_in_sight()).cast()
}

/// What a call attaches.
#[derive(Clone, Copy)]
pub(super) enum State {
    /// The thread state that `PyGILState` has for this thread.
    Own(*mut PyThreadState),
    /// One that was made for a scope.
    OfScope(*mut PyThreadState),
    ToBeMade,
}

impl State {
    pub(super) fn usual(py: &'static Api) -> State {
        // SAFETY: `PyGILState_GetThisThreadState` reads thread-local storage only.
        let own = unsafe { py.PyGILState_GetThisThreadState() };
        if own.is_null() {
            State::ToBeMade
        } else {
            State::Own(own)
        }
    }
}

/// Asks for the exit callback if it is not installed. This call does not install the callback itself, as it neither
/// runs Python code nor gives up the GIL.
pub(super) fn request_install(py: &'static Api) {
    let main = main();
    if is_only_watched() {
        return;
    }
    // SAFETY: `Py_IsInitialized` needs no thread state.
    if !main.is_installed() && !main.gate.is_closed() && unsafe { py.Py_IsInitialized() } != 0 {
        first_use::request_install(py);
    }
}

/// Attaches a thread state, with the interpreter held. Returns `None` if it is too late.
pub(super) fn attach(py: &'static Api, state: State) -> Option<*mut PyThreadState> {
    let Some(thread) = Thread::this() else { no_memory() };
    if is_only_watched() {
        return Some(attach_only(py, thread, state));
    }
    let main = main();
    let record = match (state, thread.legacy.chosen.get()) {
        (State::Own(state) | State::OfScope(state), _) => record_of(py, state).unwrap_or(main),
        (State::ToBeMade, Some(chosen)) => chosen.record()?,
        (State::ToBeMade, None) => main,
    };
    let is_inside = thread.legacy.is_holding();
    if !is_inside && !enter(py, thread, record, matches!(state, State::Own(_))) {
        return None;
    }
    if let (State::ToBeMade, Some(chosen)) = (state, thread.legacy.chosen.get()) {
        // This is checked again, now that the interpreter is held. Until then the record could become another
        // interpreter's.
        if chosen.record().is_none() {
            if !is_inside {
                thread.legacy.give_back(&thread.tally);
            }
            return None;
        }
    }
    let attached = match state {
        State::Own(state) | State::OfScope(state) => state,
        State::ToBeMade => {
            let state = make_in(py, thread, record);
            thread.legacy.note_making(state);
            state
        }
    };
    // SAFETY: `attached` is this thread's own thread state, and it is not attached yet.
    unsafe { py.PyEval_RestoreThread(attached) };
    if !is_inside {
        thread.legacy.keep(match state {
            State::OfScope(state) => Until::Deleted(state),
            _ => {
                // SAFETY: a thread state is attached to this thread.
                let alone = unsafe { py.PyEval_GetFrame() }.is_null();
                Until::Released { ensures: 0, counted: 0, alone }
            }
        });
    }
    Some(attached)
}

/// Attaches a thread state as CPython does: the interpreter is not held.
fn attach_only(py: &'static Api, thread: &Thread, state: State) -> *mut PyThreadState {
    let state = match state {
        State::Own(state) | State::OfScope(state) => state,
        State::ToBeMade => {
            // SAFETY: needs no thread state.
            let state = make(py, thread, unsafe { py.PyInterpreterState_Main() });
            thread.legacy.note_making(state);
            state
        }
    };
    // SAFETY: this is the thread's own thread state, and it is not attached. If it is too late, CPython does with the
    // thread what it does.
    unsafe { py.PyEval_RestoreThread(state) };
    state
}

/// Makes a thread state, with one call counted, in an interpreter that is held.
fn make_in(py: &'static Api, thread: &Thread, record: &'static Record) -> *mut PyThreadState {
    // SAFETY: `PyInterpreterState_Main` needs no thread state.
    let main = unsafe { py.PyInterpreterState_Main() };
    make(py, thread, if record.is_main() { main } else { record.interpreter() })
}

/// Makes a thread state, with one call counted, in `interpreter`, which is held.
#[inline(always)]
pub(super) fn make(
    py: &Api,
    thread: &Thread,
    interpreter: *mut PyInterpreterState,
) -> *mut PyThreadState {
    // SAFETY: the caller promises that the interpreter is held. The new thread state is known to no other thread.
    unsafe {
        let state = birth::of_thread_state(py, &thread.birth, || states::get().make(interpreter));
        if state.is_null() {
            no_memory();
        }
        *count(state) = 1;
        state
    }
}

#[cold]
fn no_memory() -> ! {
    python::fatal(ENSURE, "Couldn't create thread-state for new thread");
}

/// Returns the record of the interpreter of `own`, if the library knows that interpreter.
fn record_of(py: &'static Api, own: *mut PyThreadState) -> Option<&'static Record> {
    // SAFETY: only the thread itself and the end of its interpreter delete a thread's last thread state.
    let interpreter = while_alive(py, || unsafe { py.PyThreadState_GetInterpreter(own) })?;
    known_at(py, interpreter)
}

/// Does something quick while the thread states of the main interpreter stay. Returns `None` if they are gone, or
/// about to go.
pub(super) fn while_alive<T>(py: &'static Api, work: impl FnOnce() -> T) -> Option<T> {
    if is_only_watched() {
        return Some(work());
    }
    let main = main();
    if main.gate.is_closed() {
        // Python may be alive again. Then this opens the gate.
        first_use::prepare_main(py);
    } else if main.interpreter().is_null() {
        // Opens the gate before the first use in this run of Python. That use would open the gate anew, and forget
        // the holds that were counted there.
        let _ = open_main(py);
    }
    trying_to_hold(main, |stays| (stays || !states::get().are_going()).then(work))
}

/// Does something quick, and holds the interpreter meanwhile if it is not too late. `work` is told whether the
/// interpreter stays meanwhile. The interpreter stays because it is held, or because this thread conducts the exit.
fn trying_to_hold<T>(record: &'static Record, work: impl FnOnce(bool) -> T) -> T {
    let life = record.life();
    let held = record.legacy.enter(Claim::Holder, &LOBBY);
    let stays = held || Thread::known().is_some_and(|thread| thread.legacy.finalizes(record));
    let done = work(stays);
    // If another run of Python has begun, or another interpreter has the record now, that one has not counted this
    // hold.
    if held && record.life() == life {
        let _ = record.legacy.leave(&LOBBY);
    }
    done
}

/// Detaches the attached thread state, which was cleared, and deletes it. This takes two steps if no function does
/// both, for example from 3.13 on where the original could not be copied. Between the two steps, what keeps the
/// thread state from going is a hold, or that this thread conducts the exit.
pub(super) fn delete(py: &'static Api, state: *mut PyThreadState) {
    // SAFETY: the caller promises that `state` is attached to this thread, and cleared.
    if unsafe { states::get().delete_current(state) } {
        return;
    }
    request_install(py);
    let record = record_of(py, state).unwrap_or(main());
    trying_to_hold(record, |stays| {
        // SAFETY: `state` is attached to this thread.
        unsafe { py.PyEval_SaveThread() };
        if stays {
            // SAFETY: `state` is not attached any more, and belongs to this thread alone. If the interpreter does
            // not stay, it is too late, and the exit deletes the thread state.
            unsafe { py.PyThreadState_Delete(state) };
        }
    });
}
