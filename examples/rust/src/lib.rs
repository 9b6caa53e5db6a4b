//! A Rust library that calls Python through its C API, from `std::thread`s. For Python's `ctypes`:
//! `PyDLL("libclient_rust.so").start(callback)`.

#[path = "../../clients/events.rs"]
mod events;

use pep788::View;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

#[allow(non_snake_case)]
extern "C" {
    fn Py_IncRef(object: *mut c_void);
    fn Py_DecRef(object: *mut c_void);
    fn PyObject_CallObject(callable: *mut c_void, args: *mut c_void) -> *mut c_void;
    fn PyErr_WriteUnraisable(context: *mut c_void);
    fn PyGILState_Ensure() -> c_int;
    fn PyGILState_Release(state: c_int);
}

/// A Python function, never freed.
#[derive(Clone, Copy)]
struct Function(*mut c_void);

// SAFETY: the pointer is only used while attached.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// # Safety
    /// The thread is attached, and `object` alive.
    unsafe fn new(object: *mut c_void) -> Function {
        // SAFETY: says the caller.
        unsafe { Py_IncRef(object) };
        Function(object)
    }

    /// # Safety
    /// The thread is attached.
    unsafe fn call(self) {
        // SAFETY: attached, says the caller, and the object is alive.
        unsafe {
            let result = PyObject_CallObject(self.0, null_mut());
            if result.is_null() {
                PyErr_WriteUnraisable(self.0);
            } else {
                Py_DecRef(result);
            }
        }
    }
}

/// # Safety
/// The thread is attached, and `callable` alive.
#[no_mangle]
pub unsafe extern "C" fn start_before(callable: *mut c_void) {
    // SAFETY: says the caller.
    let function = unsafe { Function::new(callable) };
    // SAFETY: not while Python exits; nobody looks after that here.
    events::start(move || unsafe {
        let state = PyGILState_Ensure(); // may crash, or never come back
        function.call(); // so may this
        PyGILState_Release(state);
    });
}

/// # Safety
/// The thread is attached, and `callable` alive.
#[no_mangle]
pub unsafe extern "C" fn start(callable: *mut c_void) {
    // SAFETY: says the caller.
    let function = unsafe { Function::new(callable) };
    let view = View::current().expect("memory");
    events::start(move || match view.attach() {
        // SAFETY: attached; the exit waits for it.
        Some(_attached) => unsafe { function.call() },
        None => {} // Python is exiting, or gone
    });
}
