//! `PyGILState_SetInterpreter`: chooses the interpreter that a thread's Ensures attach to.

use super::call::{State, UNLOCKED};
use super::copies;
use super::ensure::begin;
use super::release::release;
use crate::exit::calls::are_protected;
use crate::interpreter::by_address::{by_address, Stays};
use crate::python::{Api, PyInterpreterState, PyThreadState};
use crate::thread::attached::attached;
use crate::thread::legacy::Chosen;
use crate::thread::thread::Thread;

/// Chooses where this thread is attached by an Ensure while it has no thread state. Returns `false` if that cannot
/// be done.
pub(crate) fn choose_interpreter(py: &'static Api, interpreter: *mut PyInterpreterState) -> bool {
    if let Some(done) = copies::choose_by_copy(interpreter) {
        return done;
    }
    let Some(thread) = Thread::this() else { return false };
    // SAFETY: `PyInterpreterState_Main` needs no thread state.
    if interpreter.is_null() || interpreter == unsafe { py.PyInterpreterState_Main() } {
        thread.legacy.chosen.set(None);
        return true;
    }
    if !are_protected() {
        return false;
    }
    let before = thread.legacy.chosen.get();
    let attached = attached(py);
    let mut chosen = choose(py, interpreter, attached);
    if chosen.is_none() && attached.is_null() {
        // If the library was never used in that interpreter, it can look for it only with something attached. So an
        // Ensure is begun.
        thread.legacy.chosen.set(None);
        if let Some(state) = begin(py, State::usual(py)) {
            chosen = choose(py, interpreter, state);
            // SAFETY: this releases the Ensure that was begun above.
            unsafe { release(UNLOCKED) };
        }
    }
    thread.legacy.chosen.set(chosen.or(before));
    chosen.is_some()
}

/// Returns the choice of `interpreter`, or `None` if the library does not know such an interpreter.
fn choose(
    py: &'static Api,
    interpreter: *mut PyInterpreterState,
    attached: *mut PyThreadState,
) -> Option<Chosen> {
    let record = by_address(py, interpreter, attached, Stays::Promised)?;
    Some(Chosen::now(record))
}
