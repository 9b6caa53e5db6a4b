//! Why no guard could be had.

use crate::python::{Api, Exception};

pub(crate) enum Refusal {
    /// Gone, finalizing, or not there yet.
    Unavailable,
    OutOfMemory,
    /// CPython raised this, in the attached thread, when the exit callback was to be installed.
    Raised(Exception),
}

impl Refusal {
    /// For the exception that is set, if there is one, which is not any more.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn raised(py: &'static Api) -> Refusal {
        // SAFETY: attached, says the caller.
        unsafe {
            // Without memory CPython does not always say so.
            let nothing_said = py.PyErr_Occurred().is_null()
                || py.PyErr_ExceptionMatches(py.PyExc_SystemError()) != 0;
            let exception = Exception::take(py);
            if nothing_said || exception.has_text(b"can't allocate lock") {
                Refusal::OutOfMemory
            } else {
                Refusal::Raised(exception)
            }
        }
    }
}
