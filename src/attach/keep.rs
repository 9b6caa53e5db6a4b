//! `Pep788_KeepThreadState`: the thread state that an Ensure has made stays with its thread.
//!
//! Ensure notes a thread state that it makes for a thread that asked for this, and then treats it like one that the
//! thread had before: Release only detaches it. So it holds nothing while it is detached. An exit does not wait for it,
//! and deletes it as it deletes the thread states of other threads.

use crate::gate::gate::Claim;
use crate::gate::registry::{main, LOBBY};
use crate::python;
use crate::thread::attached::attached;
use crate::thread::levels::Way;
use crate::thread::thread::Thread;

/// From now on the thread keeps the thread state that an Ensure makes for it, or no longer does. Then the thread state
/// that it keeps now goes with the Release of the Ensure that it is in, or at once if there is none.
pub(crate) fn set(thread: &Thread, keep: bool) {
    if keep {
        thread.kept.begin(give_back);
        return;
    }
    thread.kept.stop();
    let levels = &thread.levels;
    match levels.iter().position(|level| thread.kept.is(level.state)) {
        Some(index)
            if levels.get(index).is_some_and(|level| matches!(level.way, Way::Reattached)) =>
        {
            let _ = thread.kept.take(main());
            levels.set_first(index);
        }
        // Something else attached it, such as `PyGILState_Ensure`, and will detach it. It goes when the thread ends.
        Some(_) => {}
        None => give_back(),
    }
}

/// Deletes the thread state that the calling thread keeps, unless its interpreter finalizes or is gone: then CPython
/// deletes it.
fn give_back() {
    let (Some(thread), Some(py), record) = (Thread::known(), python::get(), main()) else { return };
    if !attached(py).is_null() {
        // Inside an Ensure, whether of this library or not.
        return;
    }
    let Some(memory) = thread.kept.take(record) else { return };
    let life = record.life();
    if !record.is_installed() || !record.gate.enter(Claim::View, &LOBBY) {
        return;
    }
    // The record may be that of another run of Python by now, which has not counted this guard.
    if record.life() != life {
        return;
    }
    // SAFETY: the memory is of this thread and this run of Python, the interpreter is held, and nothing is attached. An Ensure
    // of this thread made the thread state.
    unsafe {
        let state = memory.attach(py, thread.kept.forgotten_at_end());
        py.PyThreadState_Clear(state);
        py.PyThreadState_DeleteCurrent();
    }
    let _ = record.gate.leave(&LOBBY);
}
