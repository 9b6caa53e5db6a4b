//! Lets an exit make progress while thousands of threads use the library.

use core::time::Duration;

use super::calls::Calls;
use crate::gate::tally::ROLL;
use crate::python::{switch_interval, Api};
use crate::support::clock::Instant;

/// How often a waiting exit looks for signals, which do not wake it.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// More threads than this that use the library are a crowd.
const CROWD: usize = 200;

/// Lengthens the switch interval of this GIL, so that the threads of a crowd wake less often. Returns the interval
/// from before, if it was changed.
///
/// A thread that waits for the GIL wakes every 5 ms, by the lock of the GIL. Thousands of such threads keep all
/// processors busy. Then the threads that the exit waits for do not get the GIL, and the exit does not get it either.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn calm_crowd(py: &'static Api) -> Option<Duration> {
    // The interval grows with the square of the number of threads. Each thread has to wake in turn, and to wake one
    // thread the kernel looks through all threads that wait for the lock.
    const FOR_EACH_PAIR: Duration = Duration::from_nanos(100);
    // A thread that runs Python code without a pause may keep the GIL for this long.
    const AT_MOST: Duration = Duration::from_secs(5);
    let size = ROLL.lock().len();
    let pairs = u32::try_from(size.saturating_mul(size)).unwrap_or(u32::MAX);
    let interval = FOR_EACH_PAIR.saturating_mul(pairs).min(AT_MOST);
    // SAFETY: attached, by this function's contract.
    (size > CROWD).then(|| unsafe { switch_interval::lengthen(py, interval) }).flatten()
}

/// Returns when a waiting exit attaches next, to look for signals. A crowd of threads that call without a pause keeps
/// the exit from attaching for seconds, and views are honoured meanwhile. So among a crowd the exit first closes the
/// door: it attaches only after the grace, and the time for calls, are over.
pub(super) fn next_look(grace_over: Option<Instant>, calls: &Calls) -> Instant {
    let look = Instant::now() + SIGNALS_EVERY;
    let is_crowded = ROLL.lock().len() > CROWD;
    let ends = [grace_over, calls.over()].into_iter().flatten();
    ends.filter(|_| is_crowded).fold(look, Instant::max)
}
