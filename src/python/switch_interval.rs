//! How often a thread that waits for the GIL wakes to ask the GIL's holder for it (`sys.setswitchinterval`).

use core::ffi::CStr;
use core::time::Duration;

use super::api::Api;
use super::objects::{sys, KeepException, Owned};

/// Makes the switch interval of the attached interpreter's GIL at least this long, and returns the interval that it
/// had. Returns `None` if it was this long already, or if it cannot be read or changed.
///
/// The functions that this file calls are builtin functions of CPython. None of them runs Python code, where the
/// thread might lose the GIL.
///
/// # Safety
/// The thread is attached.
pub(crate) unsafe fn lengthen(py: &'static Api, interval: Duration) -> Option<Duration> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let before = get(py).filter(|before| *before < interval);
        let before = before.filter(|_| set(py, interval));
        py.PyErr_Clear();
        before
    }
}

/// # Safety
/// The thread is attached.
pub(crate) unsafe fn restore(py: &'static Api, interval: Duration) {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        set(py, interval);
        py.PyErr_Clear();
    }
}

/// # Safety
/// The thread is attached.
unsafe fn get(py: &'static Api) -> Option<Duration> {
    // SAFETY: attached, by this function's contract.
    let seconds = unsafe {
        let interval = builtin(py, c"getswitchinterval")?.call(None)?;
        py.PyFloat_AsDouble(interval.as_ptr())
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// # Safety
/// The thread is attached.
unsafe fn set(py: &'static Api, interval: Duration) -> bool {
    // SAFETY: attached, by this function's contract. The reference to `seconds` is owned.
    unsafe {
        let seconds = Owned::new(py, py.PyFloat_FromDouble(interval.as_secs_f64()));
        let function = builtin(py, c"setswitchinterval");
        function.is_some_and(|function| function.call(seconds.as_ref()).is_some())
    }
}

/// Returns a function of `sys` if it is a C function, as CPython's own is.
///
/// # Safety
/// The thread is attached.
unsafe fn builtin(py: &'static Api, name: &CStr) -> Option<Owned> {
    // SAFETY: attached, by this function's contract. For any other object CPython reports that it is no such
    // function.
    unsafe {
        let function = sys(py, name)?;
        (!py.PyCFunction_GetFunction(function.as_ptr()).is_null()).then_some(function)
    }
}
