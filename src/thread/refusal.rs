//! Why a guard was refused.

use crate::python::{Api, Exception};

pub(crate) enum Refusal {
    /// The interpreter is gone, finalizing, or not there yet.
    Unavailable,
    OutOfMemory,
    /// CPython raised this exception, in the attached thread, when the exit callback was to be installed.
    Raised(Exception),
}

impl Refusal {
    /// Makes a refusal of the exception that is set, if there is one. After that the exception is not set any more.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn raised(py: &'static Api) -> Refusal {
        // SAFETY: the thread is attached, by this function's contract.
        unsafe {
            // If there is no memory, CPython does not always say so.
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
