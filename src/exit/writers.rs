//! Threads that write to `sys.stdout` and `sys.stderr` when finalization begins.
//!
//! A thread that writes has the lock of the stream's buffer, and gives up the GIL meanwhile. If finalization begins then, the
//! thread does not come back. CPython cannot have the lock when it flushes the stream, and ends the process: "could not acquire
//! lock for `<_io.BufferedWriter name='<stderr>'>` at interpreter shutdown, possibly due to daemon threads".

use std::time::{Duration, Instant};

use super::linger::one_runs;
use super::stragglers::pause;
use crate::python::{streams, Api};
use crate::system::waits::how_often_this_thread_waited;

/// Has other threads come to the end of what they write, while they can attach still. Where they do not stop writing, they
/// keep the streams, and Python has new ones. What they have not written then is lost.
///
/// # Safety
/// The calling thread is attached, and stays so until finalization begins.
pub(super) unsafe fn wait_for_writers(py: &'static Api) {
    const ROUNDS: usize = 20;
    for _ in 0..ROUNDS {
        // SAFETY: attached, says the caller.
        unsafe {
            streams::flush(py);
            let_others_run();
            let before = how_often_this_thread_waited();
            streams::take_locks_for_a_moment(py);
            if how_often_this_thread_waited() == before {
                // Nobody had a lock, and nobody was waiting for one. Nobody comes to have one: that takes the GIL.
                return;
            }
            pause(py);
        }
    }
    // SAFETY: attached, says the caller, and nothing here changes that for good.
    unsafe {
        streams::flush(py);
        streams::renew(py);
    }
}

/// A lock that is given back belongs to nobody until a thread that waits for it has woken up. Gives such a thread the time, and
/// keeps the GIL.
fn let_others_run() {
    const AT_LEAST: Duration = Duration::from_micros(200);
    const AT_MOST: Duration = Duration::from_millis(3);
    let over = Instant::now() + AT_MOST;
    std::thread::sleep(AT_LEAST);
    while one_runs(&[], over) {
        std::thread::sleep(AT_LEAST);
    }
}
