//! Waits for threads that write to `sys.stdout` and `sys.stderr`, before finalization begins.
//!
//! A thread that writes has the lock of the stream's buffer, and gives up the GIL meanwhile. It does not need the GIL to take
//! the lock either: a thread that has waited for the lock takes it before it comes back to Python. If finalization begins
//! then, the thread does not come back. CPython cannot get the lock when it flushes the stream, and ends the process:
//! "could not acquire lock for `<_io.BufferedWriter name='<stderr>'>` at interpreter shutdown, possibly due to daemon
//! threads".
//!
//! So threads are given time to come to the end of what they write. If they do not, or if it cannot be seen, the streams
//! in `sys` are replaced. Then finalization does not need the locks of the old ones.

use core::time::Duration;

use super::linger::one_runs;
use super::stragglers::pause;
use crate::os;
use crate::os::{how_often_others_ran, how_often_this_thread_waited};
use crate::python::{streams, Api};
use crate::support::clock::Instant;

/// Waits until other threads have come to the end of what they write, while they can still attach. If they do not
/// stop writing, they keep the streams, and Python gets new ones. What these threads have not written by then is
/// lost.
///
/// # Safety
/// The calling thread is attached, and stays so until finalization begins.
pub(super) unsafe fn wait_for_writers(py: &'static Api) {
    // SAFETY: attached, by this function's contract, and nothing here detaches the thread for good.
    unsafe {
        if !streams::others_are_in_python(py) {
            return;
        }
        streams::keep_input(py);
        // Without a GIL other threads may take a lock at any time, so there is no point in waiting.
        let others_run = streams::has_no_gil(py);
        if others_run || !wait_for_locks(py) {
            streams::flush(py);
            streams::renew(py, others_run);
        }
        // No stream is flushed after that: to write may give up the GIL. CPython does it when finalization has begun.
    }
}

/// Waits until no thread has a lock of a stream, or is about to have one. Returns `false` if it never comes to that, or
/// if the system does not tell.
///
/// # Safety
/// The calling thread is attached.
unsafe fn wait_for_locks(py: &'static Api) -> bool {
    const ROUNDS: usize = 20;
    // A thread that computes keeps it from being seen, for as long as it runs.
    const UNSEEN: usize = 4;
    let mut unseen = 0;
    for _ in 0..ROUNDS {
        // SAFETY: attached, by this function's contract.
        unsafe {
            streams::flush(py);
            let all_sleep = let_others_run();
            let (waited, ran) = (how_often_this_thread_waited(), how_often_others_ran());
            streams::take_locks_for_a_moment(py);
            if how_often_this_thread_waited() == waited {
                // Perhaps no thread had a lock. Or the thread that had it ran on another processor, had the GIL for a
                // moment, and gave the lock back before this thread came to wait for it.
                if all_sleep && ran.is_some() && how_often_others_ran() == ran {
                    // No thread has a lock, and none has waited for one and is about to take it. No other thread can
                    // come to have one, because that takes the GIL.
                    return true;
                }
                unseen += 1;
                if unseen == UNSEEN {
                    return false;
                }
            }
            pause(py);
        }
    }
    false
}

/// Keeps the GIL, and gives other threads the time to do what they can do without it. A lock that is given back belongs
/// to no thread until a thread that waits for it has woken up. Returns whether all of them have come to sleep.
fn let_others_run() -> bool {
    const AT_LEAST: Duration = Duration::from_micros(200);
    const AT_MOST: Duration = Duration::from_millis(3);
    // A thread may wake another one and sleep, between the looks at the two. So they are looked at twice.
    const LOOKS: usize = 2;
    let over = Instant::now() + AT_MOST;
    let mut quiet = 0;
    while quiet < LOOKS && Instant::now() < over {
        os::sleep(AT_LEAST);
        quiet = if one_runs(&[], over) { 0 } else { quiet + 1 };
    }
    quiet == LOOKS && Instant::now() < over
}
