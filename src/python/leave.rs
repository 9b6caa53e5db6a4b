//! Has the main thread leave as by `sys.exit()`, when a signal comes.

use core::ffi::c_int;
use core::ptr::null_mut;

use super::api::{Api, PyObject};
use super::find::get;
use super::objects::{tuple, KeepException, MethodDef, Owned};

static LEAVE: MethodDef = MethodDef::any_arguments(c"pep788_leave", leave, c"Raises SystemExit.");

/// Has Python handle the signal by `SystemExit`, which is raised in the main thread, also if that waits for something.
/// Returns `false` if that failed.
///
/// # Safety
/// The calling thread is attached, and it is the main thread.
pub(crate) unsafe fn by_signal(py: &'static Api, signal: c_int) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let install = || {
            let module = Owned::new(py, py.PyImport_ImportModuleLevel(c"_signal".as_ptr()))?;
            let function = LEAVE.function(py, &module)?;
            let number = Owned::new(py, py.PyLong_FromUnsignedLong(signal as _))?;
            let arguments = tuple(py, &[&number, &function])?;
            let set = module.attribute(c"signal")?;
            Owned::new(py, py.PyObject_CallObject(set.as_ptr(), arguments.as_ptr()))
        };
        let done = install().is_some();
        py.PyErr_Clear();
        done
    }
}

unsafe extern "C" fn leave(_: *mut PyObject, _: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    if let Some(py) = get() {
        // SAFETY: CPython calls this in an attached thread. The variable is there in all versions.
        unsafe { py.PyErr_SetNone(py.PyExc_SystemExit()) };
    }
    null_mut()
}
