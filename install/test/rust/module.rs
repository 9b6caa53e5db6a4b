//! An extension module in Rust, as PyO3's are, with libpep788's static library in it. Panics are caught, as PyO3 does.

use std::os::raw::{c_char, c_int, c_void};

type Object = c_void;

#[repr(C)]
struct Method {
    name: *const c_char,
    function: Option<unsafe extern "C" fn(*mut Object, *mut Object) -> *mut Object>,
    flags: c_int,
    doc: *const c_char,
}

extern "C" {
    fn module_of(methods: *const Method) -> *mut Object;
    fn PyLong_FromLong(value: i64) -> *mut Object;
    fn PyInterpreterGuard_FromCurrent() -> *mut c_void;
    fn PyInterpreterGuard_Close(guard: *mut c_void);
    fn PyThreadState_Ensure(guard: *mut c_void) -> *mut c_void;
    fn PyThreadState_Release(token: *mut c_void);
}

unsafe extern "C" fn serves(_: *mut Object, _: *mut Object) -> *mut Object {
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| unsafe {
        let guard = PyInterpreterGuard_FromCurrent();
        let token = PyThreadState_Ensure(guard);
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(guard);
        if !token.is_null() {
            panic!("caught");
        }
    });
    PyLong_FromLong(i64::from(caught.is_err()))
}

#[no_mangle]
pub unsafe extern "C" fn PyInit_module() -> *mut Object {
    const NO_ARGUMENTS: c_int = 4;
    let last = Method { name: std::ptr::null(), function: None, flags: 0, doc: std::ptr::null() };
    let serves =
        Method { name: "serves\0".as_ptr().cast(), function: Some(serves), flags: NO_ARGUMENTS, doc: std::ptr::null() };
    module_of(Box::leak(Box::new([serves, last])).as_ptr())
}
