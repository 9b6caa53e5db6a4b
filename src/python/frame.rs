//! Finds out which Python code the calling thread runs.

use core::ffi::c_ulong;

use super::api::Api;
use super::objects::Owned;

/// A place in Python code.
pub(crate) struct Frame {
    pub(crate) file: Owned,
    pub(crate) function: Owned,
    /// 0 if the frame has no line.
    pub(crate) line: c_ulong,
}

/// Returns the innermost Python frame of the calling thread, if there is one. Leaves no exception set.
///
/// # Safety
/// The calling thread is attached, with no exception set.
pub(crate) unsafe fn innermost_frame(py: &'static Api) -> Option<Frame> {
    // SAFETY: attached, by this function's contract. The frame is borrowed, and then owned.
    unsafe {
        let frame = py.PyEval_GetFrame();
        if frame.is_null() {
            return None;
        }
        py.Py_IncRef(frame);
        let frame = Owned::new(py, frame)?;
        let code = frame.attribute(c"f_code")?;
        let line = py.PyLong_AsUnsignedLong(frame.attribute(c"f_lineno")?.as_ptr());
        let has_line = py.PyErr_Occurred().is_null();
        if !has_line {
            py.PyErr_Clear();
        }
        Some(Frame {
            file: code.attribute(c"co_filename")?,
            function: code.attribute(c"co_name")?,
            line: if has_line { line } else { 0 },
        })
    }
}
