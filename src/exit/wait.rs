//! The wait of an exit, from its beginning until the gate is closed.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::at_fini;
#[cfg(pep788_redirects)]
use super::bound;
use super::calls::{are_protected, Calls};
use super::crowd::{calm_crowd, next_look};
use super::drain::{close, covers, guards_out, honours_views, wait_detached};
use super::linger::linger;
use super::report::{Awaited, Report};
use super::stragglers::{a_thread_is_late, another_is_leaving, pause, run, run_holding, LEAVING};
use super::writers::wait_for_writers;
use crate::gate::record::Record;
use crate::gate::registry::main;
use crate::os::{clock, say};
use crate::python::atexit::LateCallbacks;
use crate::python::threading::{self, JoinedByExit};
use crate::python::{self, switch_interval, Api};
use crate::support::clock::Instant;
use crate::support::settings;
use crate::thread::thread::{forget_the_gone, Thread};
use crate::watch::phases::{self, Phase};

/// Waits until no guard is out, and closes the gate. The main interpreter waits for all interpreters, because threads
/// in any of them depend on it.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
pub(super) unsafe fn wait_for_guards(
    py: &'static Api,
    record: &'static Record,
    joined: Option<JoinedByExit>,
) {
    if record.gate.is_closed() {
        // The main interpreter's wait has covered this interpreter.
        return;
    }
    give_up_own_holds(record);
    if record.is_main() {
        phases::begins(Phase::Waiting);
    }
    if let Some(thread) = Thread::this() {
        thread.legacy.set_finalizes(record);
    }
    let begun = Instant::now();
    let mut calls = Calls::new(begun);
    let grace_over = settings::get().drain_grace.map(|grace| begun + grace);
    let mut report = Report::new(record, begun);
    let mut patience = LEAVING;
    // SAFETY: attached, by this function's contract, and attached again at the end of each round.
    unsafe {
        let _exception = python::KeepException::new(py);
        let interval = calm_crowd(py);
        let joined = joined.or_else(|| JoinedByExit::watch(py));
        py.PyErr_Clear();
        at_fini::run(py, |other| covers(record, other));
        let mut late_callbacks = None;
        let mut awaited = None;
        loop {
            // If there was no memory to note the callbacks, the second turn tries again at once, and later rounds try
            // again.
            for _ in 0..2 {
                late_callbacks = late_callbacks.or_else(|| LateCallbacks::note(py));
            }
            let state = py.PyEval_SaveThread();
            let look = next_look(grace_over, &calls);
            let free = wait_detached(record, grace_over, &calls, look);
            if !free {
                forget_the_gone();
            }
            if let Some(text) = calls.report(record, |other| covers(record, other)) {
                say(text.as_str().as_bytes());
            }
            py.PyEval_RestoreThread(state);
            if !free {
                report.look_around(py, Awaited::Guards, || guards_out(record));
                continue;
            }
            // The threads and callbacks that came meanwhile may need guards again.
            if a_thread_is_late(py, joined.as_ref(), &mut awaited, &mut patience) {
                report.look_around(py, Awaited::Threads, || guards_out(record));
                pause(py);
            } else if let Some(callback) = late_callbacks.as_ref().and_then(|late| late.take()) {
                run_holding(py, record, callback);
            } else if another_is_leaving(py, record, &mut patience) {
                pause(py);
            } else if close(record, honours_views(grace_over), &calls) {
                break;
            }
        }
        if record.is_main() {
            phases::begins(Phase::Closed);
        }
        if are_protected() && record.is_main() {
            let own = threading::native_ids(py);
            let state = py.PyEval_SaveThread();
            linger(&own);
            py.PyEval_RestoreThread(state);
        }
        if record.is_main() {
            // Relaxed: only threads that come much later read it.
            CLOSED_AT.store(clock(), Ordering::Relaxed);
            bound_exit();
        }
        if let Some(late) = late_callbacks {
            late.end(|callback| run(py, callback));
        }
        if are_protected() && record.is_main() {
            // This comes last, so that no thread begins to write before finalization. The time limit is on by then,
            // because this may have to wait.
            wait_for_writers(py);
        }
        // Other threads go on with the GIL of a subinterpreter, so its interval is restored. A thread that still
        // wants the main interpreter's GIL is in the way of that interpreter's end.
        if let Some(interval) = interval.filter(|_| !record.is_main()) {
            switch_interval::restore(py, interval);
        }
    }
}

/// When the main interpreter's gate was closed last, by `clock`.
static CLOSED_AT: AtomicU64 = AtomicU64::new(0);

/// Returns for how long the main interpreter's gate has been closed. Returns `None` if the gate is open.
pub(crate) fn closed_for() -> Option<Duration> {
    // Relaxed: only a time is read, and the gate is asked as well.
    let closed_at = CLOSED_AT.load(Ordering::Relaxed);
    let is_closed = closed_at != 0 && main().gate.is_closed();
    is_closed.then(|| Duration::from_millis(clock().saturating_sub(closed_at)))
}

/// Gives back the holds of the thread that finalizes. This thread cannot come to its Release while it waits, so a
/// wait for these holds would never end.
fn give_up_own_holds(record: &'static Record) {
    if let Some(thread) = Thread::known() {
        let levels = &thread.levels;
        let covered = |index: &usize| levels.get(*index).is_some_and(|l| covers(record, l.record));
        for hold in (0..levels.len()).filter(covered).filter_map(|index| levels.take_hold(index)) {
            let _ = hold.give_back_by(&thread.tally);
        }
        // The thread is let in to the end.
        if thread.legacy.held().is_some_and(|held| covers(record, held)) {
            thread.legacy.give_back(&thread.tally);
        }
    }
}

/// Begins to limit how long the exit takes. The door of the main interpreter has closed, and the calling thread
/// conducts the exit.
fn bound_exit() {
    #[cfg(pep788_redirects)]
    bound::begin();
}
