//! Lets a thread with nothing attached into `PyGILState_Ensure`, or tells it that it is too late.
//!
//! A thread that is let in takes a hold on its interpreter.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use crate::exit::calls::CLOSED;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::{main, LOBBY};
use crate::interpreter::first_use::prepare_main;
use crate::os;
use crate::python::Api;
use crate::support::clock::Instant;
use crate::thread::attached::is_inside;
use crate::thread::thread::Thread;

/// Takes a hold for the thread, or waits until it is clear that the thread gets none. `is_known` says whether the
/// thread has a thread state. Returns `false` if it is too late. Returns `true` without a hold if the thread
/// conducts the exit, or if CPython is to decide.
pub(super) fn enter(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    is_known: bool,
) -> bool {
    thread.legacy.seen.set_knocks(true);
    let may_come_in = knock(py, thread, record, is_known);
    if may_come_in {
        thread.legacy.seen.set_knocks(false);
    }
    may_come_in
}

fn knock(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    is_known: bool,
) -> bool {
    let main = main();
    if !main.is_installed() {
        prepare_main(py);
    }
    // SAFETY: `Py_IsInitialized` needs no thread state.
    let is_initialized = || unsafe { py.Py_IsInitialized() } != 0;
    if main.gate.is_closed() || !is_initialized() {
        // Python is being finalized, or there is no Python.
        return thread.legacy.finalizes(main) || !main.gate.is_closed() && is_known;
    }
    // A holder is inside a call that the exit waits for. If the thread were kept out, neither the thread nor the
    // exit would go on.
    let is_holder = is_inside(record);
    let begun = Instant::now();
    loop {
        let life = record.life();
        // `threading` may join a thread that has a thread state. So such a thread is kept out no longer than the
        // other threads take to leave.
        let may_insist = is_holder || is_known && begun.elapsed() > 2 * CLOSED;
        let claim = if may_insist { Claim::Holder } else { Claim::View };
        if record.legacy.enter(claim, &LOBBY) {
            // The thread may still have a hold from an earlier run of Python.
            thread.legacy.give_back(&thread.tally);
            if record.life() != life {
                // Another run of Python has begun, or another interpreter has the record.
                let _ = record.legacy.leave(&LOBBY);
                continue;
            }
            if !main.is_installed() && !is_initialized() {
                // Python is being finalized. The library could not be told of that: this is the first call in the
                // process.
                let _ = record.legacy.leave(&LOBBY);
                return thread.legacy.finalizes(main) || is_known;
            }
            thread.legacy.take(record, life);
            return true;
        }
        if record.legacy.is_closed() {
            return thread.legacy.finalizes(record);
        }
        // The exit waits for other threads. They may come to need this thread: then it will be let in.
        wait_outside();
    }
}

/// How many threads wait outside. Relaxed: nothing depends on the exact number.
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);

/// Waits before the thread asks again. The more other threads wait, the longer this wait is. Thousands of threads
/// that woke every few milliseconds would keep the processors from the threads that the exit waits for.
fn wait_outside() {
    const AT_LEAST: Duration = Duration::from_millis(5);
    const FOR_EACH: Duration = Duration::from_micros(50);
    let others = OUTSIDE.fetch_add(1, Ordering::Relaxed);
    os::sleep(AT_LEAST.max(FOR_EACH.saturating_mul(others as u32)));
    OUTSIDE.fetch_sub(1, Ordering::Relaxed);
}

/// Forgets the waiting threads of the parent process, in a forked child.
pub(crate) fn forget_parent() {
    OUTSIDE.store(0, Ordering::Relaxed);
}
