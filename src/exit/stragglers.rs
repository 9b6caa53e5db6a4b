//! What an exit waits for besides guards: new threads, new exit callbacks, and leaving thread states.
//!
//! The threads and the callbacks came while the exit waited. The thread states are about to be deleted.

use core::time::Duration;

use super::drain::covers;
use crate::attach::ensure::{ensure, Receipt};
use crate::attach::holding::is_one_leaving;
use crate::attach::release::release;
use crate::gate::record::Record;
use crate::gate::registry::registry;
use crate::os;
use crate::python::atexit::LateCallback;
use crate::python::threading::{self, JoinedByExit, NotTold};
use crate::python::{Api, Owned};
use crate::thread::attached::attached;
use crate::thread::thread::Thread;
use crate::trace::note::another_hold;

/// Returns whether the exit has to wait for a thread that `threading` started since the exit began. `awaited` is the
/// thread that was found last. A thread is done with Python code, and `threading` does not know it any more, before
/// the thread is over.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn a_thread_is_late(
    py: &'static Api,
    joined: Option<&JoinedByExit>,
    awaited: &mut Option<Owned>,
    patience: &mut Duration,
) -> bool {
    if let Some(thread) = awaited {
        match threading::is_over(thread) {
            Some(true) => *awaited = None,
            Some(false) => return true,
            None if have_patience(patience) => return true,
            None => return false,
        }
    }
    let Some(joined) = joined else { return false };
    // SAFETY: attached, by this function's contract. The order matters: the second call also sees threads that came
    // to their end since the first call.
    let late = unsafe {
        joined.late_thread(py).and_then(|thread| {
            *awaited = thread;
            Ok(awaited.is_some() || joined.is_one_ending(py)?)
        })
    };
    late.unwrap_or_else(|NotTold| have_patience(patience))
}

/// Runs a callback in an Ensure, as a thread that may take guards after the grace too. The interpreter does not go on
/// to finalize until the callback returns.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
pub(super) unsafe fn run_holding(
    py: &'static Api,
    record: &'static Record,
    callback: LateCallback,
) {
    // SAFETY: attached, by this function's contract, so the interpreter is alive.
    unsafe {
        let hold = another_hold(record);
        let held = Thread::this()
            .and_then(|thread| ensure(py, thread, record, hold, Receipt::None))
            .is_some();
        run(py, callback);
        if held {
            release(py, "pep788_wait_for_guards", 0);
        } else if let Some(hold) = hold {
            let _ = hold.give_back();
        }
    }
}

/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn run(py: &'static Api, callback: LateCallback) {
    // SAFETY: attached, by this function's contract.
    unsafe {
        if let Err(function) = callback.run(py) {
            py.PyErr_WriteUnraisable(function.as_ptr());
        }
    }
}

/// Gives other threads a moment.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn pause(py: &'static Api) {
    // SAFETY: attached, by this function's contract, and attached again afterwards.
    unsafe {
        let state = py.PyEval_SaveThread();
        os::sleep(A_MOMENT);
        py.PyEval_RestoreThread(state);
    }
}

/// Takes a moment from `patience`. Returns `false` if none was left.
fn have_patience(patience: &mut Duration) -> bool {
    let left = !patience.is_zero();
    *patience = patience.saturating_sub(A_MOMENT);
    left
}

/// How long an exit waits for another thread state of a subinterpreter to go away.
pub(super) const LEAVING: Duration = Duration::from_millis(100);
const A_MOMENT: Duration = Duration::from_millis(1);

/// Returns whether a thread state seems about to be deleted. A thread state that `SetDaemon(0)` made non-daemon drops
/// its hold while it is cleared. If finalization came before the thread state is deleted, the thread state would be
/// deleted twice, and `Py_EndInterpreter` would be fatal. Nothing tells when a thread state is deleted, so the exit
/// asks this again for a while.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
pub(super) unsafe fn another_is_leaving(
    py: &'static Api,
    record: &'static Record,
    patience: &mut Duration,
) -> bool {
    // Only covered interpreters are asked. Other interpreters may go on like that for as long as they live.
    if registry().live().any(|other| covers(record, other) && is_one_leaving(other)) {
        return true;
    }
    if record.is_main() || !have_patience(patience) {
        return false;
    }
    let own = attached(py);
    // SAFETY: attached, by this function's contract. The thread looks only into its own thread state.
    unsafe {
        py.PyInterpreterState_ThreadHead(record.interpreter()) != own
            || !py.PyThreadState_Next(own).is_null()
    }
}
