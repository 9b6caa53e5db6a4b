//! What an exit waits for besides guards: threads and callbacks that came while it waited, and thread states that are
//! about to go.

use std::time::Duration;

use super::drain::covers;
use crate::attach::ensure::{ensure, Receipt};
use crate::attach::holding::is_one_leaving;
use crate::attach::release::release;
use crate::gate::record::Record;
use crate::gate::registry::registry;
use crate::python::atexit::LateCallback;
use crate::python::threading::{self, JoinedByExit, NotTold};
use crate::python::{Api, Owned};
use crate::thread::attached::attached;
use crate::thread::thread::Thread;
use crate::trace::note::another_hold;

/// Whether a thread is to be waited for that `threading` started since the exit began. `awaited` is
/// the one found last: it is done with Python code, and not known any more, before it is over.
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
    // SAFETY: attached, says the caller. In this order: the second one sees those too that came to
    // their end since the first.
    let late = unsafe {
        joined.late_thread(py).and_then(|thread| {
            *awaited = thread;
            Ok(awaited.is_some() || joined.is_one_ending(py)?)
        })
    };
    late.unwrap_or_else(|NotTold| have_patience(patience))
}

/// Runs a callback in an Ensure, as a thread that may take guards after the grace too: until the
/// callback returns, the interpreter does not go on to finalize.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
pub(super) unsafe fn run_holding(
    py: &'static Api,
    record: &'static Record,
    callback: LateCallback,
) {
    // SAFETY: attached, says the caller, and so alive.
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
    // SAFETY: attached, says the caller.
    unsafe {
        if let Err(function) = callback.run(py) {
            py.PyErr_WriteUnraisable(function.as_ptr());
        }
    }
}

/// Gives others a moment.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn pause(py: &'static Api) {
    // SAFETY: attached, says the caller, and again afterwards.
    unsafe {
        let state = py.PyEval_SaveThread();
        std::thread::sleep(A_MOMENT);
        py.PyEval_RestoreThread(state);
    }
}

/// Takes a moment from it; `false`: none is left.
fn have_patience(patience: &mut Duration) -> bool {
    let left = !patience.is_zero();
    *patience = patience.saturating_sub(A_MOMENT);
    left
}

/// How long another thread state of a subinterpreter is given to go away.
pub(super) const LEAVING: Duration = Duration::from_millis(100);
const A_MOMENT: Duration = Duration::from_millis(1);

/// Whether a thread state seems about to be deleted. One that `SetDaemon(0)` made non-daemon drops
/// its hold while it is cleared; if finalization came before it is deleted, it would be deleted
/// twice, and `Py_EndInterpreter` would be fatal. Nothing tells when it is, so this is asked again
/// for a while.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
pub(super) unsafe fn another_is_leaving(
    py: &'static Api,
    record: &'static Record,
    patience: &mut Duration,
) -> bool {
    // Not of other interpreters, which may go on like that for as long as they live.
    if registry().live().any(|other| covers(record, other) && is_one_leaving(other)) {
        return true;
    }
    if record.is_main() || !have_patience(patience) {
        return false;
    }
    let own = attached(py);
    // SAFETY: attached, says the caller; only the own thread state is looked into.
    unsafe {
        py.PyInterpreterState_ThreadHead(record.interpreter()) != own
            || !py.PyThreadState_Next(own).is_null()
    }
}
