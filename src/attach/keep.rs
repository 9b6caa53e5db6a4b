//! `Pep788_KeepThreadState`: the thread state that an Ensure has made stays with its thread.
//!
//! Ensure notes a thread state that it makes for a thread that asked for this, and then treats it like one that the
//! thread had before: Release only detaches it. So it holds nothing while it is detached. An exit does not wait for it,
//! and deletes it as it deletes the thread states of other threads.

use crate::gate::gate::Claim;
use crate::gate::registry::{main, LOBBY};
use crate::python::{self, states, Api, PyThreadState};
use crate::thread::attached::attached;
use crate::thread::levels::Way;
use crate::thread::thread::Thread;

/// From now on the thread keeps the thread state that an Ensure makes for it, or no longer does. Then the thread state
/// that it keeps now goes with the Release of the Ensure that it is in, or at once if there is none.
pub(crate) fn set(py: &'static Api, thread: &Thread, keep: bool) {
    if keep {
        // For `is_used`. If it cannot be had, the thread state stays until the thread ends.
        let _ = states::look(py);
        thread.kept.begin(give_back);
        return;
    }
    thread.kept.stop();
    let levels = &thread.levels;
    let Some(index) = levels.iter().position(|level| thread.kept.is(level.state)) else {
        return give_back();
    };
    let outermost = levels.get(index).filter(|level| matches!(level.way, Way::Reattached));
    // If something else attached it, such as `PyGILState_Ensure`, that will detach it. Then it goes when the thread ends.
    if outermost.is_some_and(|level| !is_used(level.state)) {
        thread.kept.forget();
        levels.set_first(index);
    }
}

/// Returns whether `PyGILState_Ensure` uses the thread state, or whether that cannot be told. The calls of it are counted
/// in the thread state, and it begins with one.
fn is_used(state: *mut PyThreadState) -> bool {
    // SAFETY: the thread state is own and alive: an Ensure of this thread has it, or its interpreter is held. Only its own
    // thread uses the count.
    states::known().is_none_or(|states| unsafe { *states.count(state) } != 1)
}

/// Deletes the thread state that the calling thread keeps, unless it is in use, or its interpreter finalizes or is gone:
/// then CPython deletes it.
fn give_back() {
    let (Some(thread), Some(py), record) = (Thread::known(), python::get(), main()) else { return };
    if !attached(py).is_null() {
        // Inside an Ensure, whether of this library or not.
        return;
    }
    let life = record.life();
    let Some(memory) = thread.kept.of(record).filter(|_| record.is_installed()) else { return };
    // As a holder: the thread state may have a hold of its own, which goes with it.
    if !record.gate.enter(Claim::Holder, &LOBBY) {
        return;
    }
    // The gate may be that of another run of Python by now.
    if record.life() == life && !is_used(memory.state()) {
        // SAFETY: the memory is of this thread and this run of Python, the interpreter is held, and nothing is attached.
        // An Ensure of this thread made the thread state.
        unsafe {
            let state = memory.attach(py, thread.kept.forgotten());
            if py.PyEval_GetFrame().is_null() {
                thread.kept.forget();
                py.PyThreadState_Clear(state);
                py.PyThreadState_DeleteCurrent();
            } else {
                // Python code has called C code, which detached the thread and came here.
                py.PyEval_SaveThread();
            }
        }
    }
    let _ = record.gate.leave(&LOBBY);
}
