//! Python's standard streams.

use super::api::Api;
use super::objects::{sys, KeepException};

/// Flushes `sys.stdout` and `sys.stderr`. What a stream raises comes again when CPython flushes it.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn flush(py: &'static Api) {
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
