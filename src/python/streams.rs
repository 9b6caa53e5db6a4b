//! Python's standard streams.

use std::time::Duration;

use super::api::Api;
use super::objects::{sys, KeepException};
use crate::system::waits::how_often_this_thread_waited;

/// Has other threads come to the end of what they write to `sys.stdout` and `sys.stderr`, while they can attach still.
///
/// A daemon thread that writes has the stream's lock, and gives up the GIL. If finalization begins meanwhile, the thread never
/// comes back, and CPython ends the process, as it cannot have the lock itself: "could not acquire lock for
/// <_io.BufferedWriter ...> at interpreter shutdown". A thread may also have been waiting for the lock. So this flushes
/// until it need not wait for anybody, and there is nothing to write, which gives up no GIL: then nobody has the lock.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn wait_for_writers(py: &'static Api) {
    const ROUNDS: usize = 100;
    const PAUSE: Duration = Duration::from_millis(1);
    for _ in 0..ROUNDS {
        // SAFETY: attached, says the caller, and again after the pause.
        unsafe {
            flush(py);
            let before = how_often_this_thread_waited();
            flush(py);
            if how_often_this_thread_waited() == before {
                return;
            }
            let state = py.PyEval_SaveThread();
            std::thread::sleep(PAUSE);
            py.PyEval_RestoreThread(state);
        }
    }
}

/// What a stream raises comes again when CPython flushes it.
///
/// # Safety
/// The calling thread is attached.
unsafe fn flush(py: &'static Api) {
    for name in [c"stdout", c"stderr"] {
        // SAFETY: attached, says the caller.
        unsafe {
            let _exception = KeepException::new(py);
            let stream = sys(py, name).filter(|stream| !py.is_none(stream.as_ptr()));
            let flush = stream.and_then(|stream| stream.attribute(c"flush"));
            let _ = flush.and_then(|flush| flush.call(None));
            py.PyErr_Clear();
        }
    }
}
