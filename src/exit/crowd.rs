//! An exit among thousands of threads.

use std::time::{Duration, Instant};

use super::calls::Calls;
use crate::gate::tally::ROLL;
use crate::python::{switch_interval, Api};

/// How often a waiting exit looks for signals, which do not wake it.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// So many threads that use the library are a crowd.
const CROWD: usize = 200;

/// A thread that waits for the GIL wakes every 5 ms, by the lock of the GIL. Thousands of them keep all processors busy
/// with that, and those that are waited for do not come to the GIL, nor does the exit. So a crowd wakes less often: by
/// the interval of this GIL, which is told what it was before.
///
/// # Safety
/// The calling thread is attached.
pub(super) unsafe fn calm_crowd(py: &'static Api) -> Option<Duration> {
    // By the square: each has to wake in turn, and to wake one the kernel looks through all that wait for the lock.
    const FOR_EACH_PAIR: Duration = Duration::from_nanos(100);
    // Until then a thread that runs Python code without a pause may keep the GIL.
    const AT_MOST: Duration = Duration::from_secs(5);
    let size = ROLL.lock().len();
    let pairs = u32::try_from(size.saturating_mul(size)).unwrap_or(u32::MAX);
    let interval = FOR_EACH_PAIR.saturating_mul(pairs).min(AT_MOST);
    // SAFETY: attached, says the caller.
    (size > CROWD).then(|| unsafe { switch_interval::lengthen(py, interval) }).flatten()
}

/// When a waiting exit attaches next, to look for signals. A crowd of threads that call without a pause keeps it from
/// attaching for seconds, and views are honoured meanwhile: so among them it first closes the door to those.
pub(super) fn next_look(grace_over: Option<Instant>, calls: &Calls) -> Instant {
    let look = Instant::now() + SIGNALS_EVERY;
    let is_crowded = ROLL.lock().len() > CROWD;
    let ends = [grace_over, calls.over()].into_iter().flatten();
    ends.filter(|_| is_crowded).fold(look, Instant::max)
}
