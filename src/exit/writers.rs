//! Waits for threads that write to `sys.stdout` and `sys.stderr`, before finalization begins.
//!
//! A thread that writes has the lock of the stream's buffer, and gives up the GIL meanwhile. If finalization begins
//! then, the thread does not come back. CPython cannot get the lock when it flushes the stream, and ends the process:
//! "could not acquire lock for `<_io.BufferedWriter name='<stderr>'>` at interpreter shutdown, possibly due to daemon
//! threads".

use std::time::{Duration, Instant};

use super::linger::one_runs;
use super::stragglers::pause;
use crate::python::{streams, Api};
use crate::system::waits::how_often_this_thread_waited;

/// Waits until other threads have come to the end of what they write, while they can still attach. If they do not
/// stop writing, they keep the streams, and Python gets new ones. What these threads have not written by then is
/// lost.
///
/// # Safety
/// The calling thread is attached, and stays so until finalization begins.
pub(super) unsafe fn wait_for_writers(py: &'static Api) {
    const ROUNDS: usize = 20;
    // SAFETY: attached, by this function's contract.
    let others_run = unsafe { streams::others_run_meanwhile(py) };
    // Other threads may take a lock at any time then, so there is no point in waiting.
    let rounds = if others_run { 0 } else { ROUNDS };
    for _ in 0..rounds {
        // SAFETY: attached, by this function's contract.
        unsafe {
            streams::flush(py);
            let_others_run();
            let before = how_often_this_thread_waited();
            streams::take_locks_for_a_moment(py);
            if how_often_this_thread_waited() == before {
                // No thread had a lock, and no thread was waiting for one. No thread can come to have one now,
                // because that takes the GIL.
                return;
            }
            pause(py);
        }
    }
    // SAFETY: attached, by this function's contract, and nothing here detaches the thread for good.
    unsafe {
        streams::flush(py);
        streams::renew(py, others_run);
    }
}

/// Gives a thread that waits for a lock the time to wake up, and keeps the GIL. A lock that is given back belongs to
/// no thread until a thread that waits for it has woken up.
fn let_others_run() {
    const AT_LEAST: Duration = Duration::from_micros(200);
    const AT_MOST: Duration = Duration::from_millis(3);
    let over = Instant::now() + AT_MOST;
    std::thread::sleep(AT_LEAST);
    while one_runs(&[], over) {
        std::thread::sleep(AT_LEAST);
    }
}
