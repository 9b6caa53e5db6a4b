//! CPython's functions, found at run time and never linked.
//!
//! One binary serves every version, loads into processes without Python, and can be preloaded,
//! because nothing here is an undefined symbol of the library.

use core::ffi::{c_char, c_int, c_ulong, c_void, CStr};

/// CPython's opaque structures.
pub(crate) enum PyObject {}
pub enum PyThreadState {}
pub enum PyInterpreterState {}

pub(super) type UncheckedCurrent = unsafe extern "C" fn() -> *mut PyThreadState;
pub(crate) type PendingCall = unsafe extern "C" fn(*mut c_void) -> c_int;
pub(crate) type CapsuleDestructor = unsafe extern "C" fn(*mut PyObject);
pub(crate) type PyCFunction = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;
pub(crate) type PyCFunctionWithKeywords =
    unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;

#[repr(C)]
pub(crate) struct PyMethodDef {
    pub name: *const c_char,
    pub function: Option<PyCFunction>,
    pub flags: c_int,
    pub doc: *const c_char,
}

// Trampolines for calls that may not return. `calls.c` explains them.
extern "C" {
    fn pep788_void(call: *const c_void);
    fn pep788_void_p(call: *const c_void, a: *mut c_void);
    fn pep788_void_ppp(call: *const c_void, a: *mut c_void, b: *mut c_void, c: *mut c_void);
    fn pep788_int(call: *const c_void) -> c_int;
    fn pep788_p_p(call: *const c_void, a: *const c_void) -> *mut c_void;
    fn pep788_p_pp(call: *const c_void, a: *mut c_void, b: *const c_void) -> *mut c_void;
    fn pep788_p_ppp(
        call: *const c_void,
        a: *mut c_void,
        b: *mut c_void,
        c: *mut c_void,
    ) -> *mut c_void;
    fn pep788_equal(call: *const c_void, a: *mut c_void, b: *mut c_void) -> c_int;
    fn pep788_import(call: *const c_void, name: *const c_void) -> *mut c_void;
}

pub(crate) const fn c_name(with_nul: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_nul.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name ends in its only NUL"),
    }
}

/// Declares [`Api`]. The `direct` functions return to their caller whatever happens. The `trampoline` functions may
/// wait for the interpreter or run Python code, so they may end the thread. The `optional` functions need not exist.
macro_rules! api {
    (
        direct { $(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)* }
        trampoline { $(fn $tname:ident($($targ:ident: $tty:ty),*) $(-> $tret:ty)? = $via:ident;)* }
        optional { $(fn $oname:ident($($oarg:ident: $oty:ty),*) -> $oret:ty;)* }
        data { $($dname:ident;)* }
    ) => {
        /// The functions of CPython that the library uses, in the version that was found.
        #[allow(non_snake_case)]
        pub(crate) struct Api {
            /// `PY_VERSION_HEX`'s first two bytes: 0x0309 is 3.9.
            pub version: u16,
            $($name: unsafe extern "C" fn($($ty),*) $(-> $ret)?,)*
            $($tname: *const c_void,)*
            $($oname: Option<unsafe extern "C" fn($($oty),*) -> $oret>,)*
            $($dname: *mut *mut PyObject,)*
            current: UncheckedCurrent,
            finalization_error: *mut *mut PyObject,
            none: *mut PyObject,
            runtime: *const c_void,
        }

        impl Api {
            /// Looks up every name. Returns the name that is missing as the error.
            pub(super) unsafe fn load(version: u16, find: impl Fn(&CStr) -> *mut c_void)
                -> Result<Api, &'static CStr>
            {
                Ok(Api {
                    version,
                    $($name: {
                        const NAME: &CStr = c_name(concat!(stringify!($name), "\0"));
                        let found = find(NAME);
                        if found.is_null() { return Err(NAME); }
                        // SAFETY: the signature is the one that CPython documents for this name. It is the same in
                        // all versions from 3.9 on.
                        unsafe { core::mem::transmute::<
                            *mut c_void, unsafe extern "C" fn($($ty),*) $(-> $ret)?>(found) }
                    },)*
                    $($tname: {
                        const NAME: &CStr = c_name(concat!(stringify!($tname), "\0"));
                        let found = find(NAME);
                        if found.is_null() { return Err(NAME); }
                        found
                    },)*
                    $($oname: {
                        const NAME: &CStr = c_name(concat!(stringify!($oname), "\0"));
                        let found = find(NAME);
                        // SAFETY: as above. NULL becomes `None`.
                        unsafe { core::mem::transmute::<
                            *mut c_void, Option<unsafe extern "C" fn($($oty),*) -> $oret>>(found) }
                    },)*
                    $($dname: {
                        const NAME: &CStr = c_name(concat!(stringify!($dname), "\0"));
                        let found = find(NAME);
                        if found.is_null() { return Err(NAME); }
                        found.cast()
                    },)*
                    current: {
                        // The function was renamed when it became public in 3.13.
                        let names = [c"PyThreadState_GetUnchecked", c"_PyThreadState_UncheckedGet"];
                        let found = names.into_iter().map(&find).find(|found| !found.is_null())
                            .ok_or(c"PyThreadState_GetUnchecked")?;
                        // SAFETY: both take nothing and return a thread state or NULL.
                        unsafe { core::mem::transmute::<
                            *mut c_void, unsafe extern "C" fn() -> *mut PyThreadState>(found) }
                    },
                    // This is new in 3.13. It is NULL before.
                    finalization_error: find(c"PyExc_PythonFinalizationError").cast(),
                    none: find(c"_Py_NoneStruct").cast(),
                    // This is private. It is NULL where CPython does not export it.
                    runtime: find(c"_PyRuntime"),
                })
            }

            $(
                #[inline]
                #[allow(non_snake_case, clippy::missing_safety_doc)]
                pub(crate) unsafe fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the caller promises to keep CPython's rules for this function.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
            $(
                #[allow(non_snake_case, clippy::missing_safety_doc)]
                pub(crate) unsafe fn $tname(&self, $($targ: $tty),*) $(-> $tret)? {
                    // SAFETY: the caller promises to keep CPython's rules for this function, and the trampoline has
                    // its signature.
                    unsafe { $via(self.$tname, $($targ.cast()),*) $(as $tret)? }
                }
            )*
            $(
                /// Returns `None` if this version does not have the function.
                #[allow(non_snake_case, clippy::missing_safety_doc)]
                pub(crate) unsafe fn $oname(&self, $($oarg: $oty),*) -> Option<$oret> {
                    // SAFETY: the caller promises to keep CPython's rules for this function.
                    self.$oname.map(|function| unsafe { function($($oarg),*) })
                }
            )*
            $(
                /// Returns the object behind this variable of CPython. The reference is borrowed. The object is
                /// immortal while the interpreter lives.
                #[allow(non_snake_case)]
                pub(crate) unsafe fn $dname(&self) -> *mut PyObject {
                    // SAFETY: this is the address of a variable that exists as long as CPython.
                    unsafe { *self.$dname }
                }
            )*
        }
    };
}

api! {
    direct {
        // Thread states.
        fn PyGILState_GetThisThreadState() -> *mut PyThreadState;
        fn PyThreadState_GetInterpreter(state: *mut PyThreadState) -> *mut PyInterpreterState;
        fn PyThreadState_New(interpreter: *mut PyInterpreterState) -> *mut PyThreadState;
        fn PyThreadState_Delete(state: *mut PyThreadState);
        fn PyThreadState_DeleteCurrent();
        fn PyThreadState_GetDict() -> *mut PyObject;
        fn PyThreadState_GetID(state: *mut PyThreadState) -> u64;
        fn PyThreadState_Next(state: *mut PyThreadState) -> *mut PyThreadState;
        fn PyEval_SaveThread() -> *mut PyThreadState;
        fn PyEval_GetFrame() -> *mut PyObject;
        // Interpreters and the runtime.
        fn Py_IsInitialized() -> c_int;
        fn Py_AddPendingCall(function: PendingCall, argument: *mut c_void) -> c_int;
        fn PyInterpreterState_Main() -> *mut PyInterpreterState;
        fn PyInterpreterState_ThreadHead(interpreter: *mut PyInterpreterState) -> *mut PyThreadState;
        fn PyInterpreterState_GetDict(interpreter: *mut PyInterpreterState) -> *mut PyObject;
        fn PyInterpreterState_GetID(interpreter: *mut PyInterpreterState) -> i64;
        fn PyThread_get_thread_ident() -> c_ulong;
        fn PyThread_get_thread_native_id() -> c_ulong;
        // Errors.
        fn PyErr_Occurred() -> *mut PyObject;
        fn PyErr_SetString(kind: *mut PyObject, message: *const c_char);
        fn PyErr_NoMemory() -> *mut PyObject;
        fn PyErr_Fetch(kind: *mut *mut PyObject, value: *mut *mut PyObject, trace: *mut *mut PyObject);
        fn PyErr_ExceptionMatches(kind: *mut PyObject) -> c_int;
        // Objects, used in ways that run no Python code.
        fn Py_IncRef(object: *mut PyObject);
        fn PyCapsule_New(pointer: *mut c_void, name: *const c_char, drop: Option<CapsuleDestructor>) -> *mut PyObject;
        fn PyCapsule_SetPointer(capsule: *mut PyObject, pointer: *mut c_void) -> c_int;
        fn PyCapsule_SetContext(capsule: *mut PyObject, context: *mut c_void) -> c_int;
        fn PyCapsule_GetContext(capsule: *mut PyObject) -> *mut c_void;
        fn PyCapsule_SetDestructor(capsule: *mut PyObject, drop: Option<CapsuleDestructor>) -> c_int;
        fn PyCapsule_GetPointer(capsule: *mut PyObject, name: *const c_char) -> *mut c_void;
        fn PyCFunction_NewEx(method: *mut PyMethodDef, this: *mut PyObject, module: *mut PyObject) -> *mut PyObject;
        fn PyCFunction_GetFunction(function: *mut PyObject) -> *mut c_void;
        fn PyCallable_Check(object: *mut PyObject) -> c_int;
        fn PyModule_GetDict(module: *mut PyObject) -> *mut PyObject;
        fn PySys_GetObject(name: *const c_char) -> *mut PyObject;
        fn PySys_SetObject(name: *const c_char, value: *mut PyObject) -> c_int;
        fn PyUnicode_FromString(text: *const c_char) -> *mut PyObject;
        fn PyUnicode_AsUTF8AndSize(text: *mut PyObject, length: *mut isize) -> *const c_char;
        fn PyFloat_FromDouble(value: f64) -> *mut PyObject;
        fn PyFloat_AsDouble(object: *mut PyObject) -> f64;
        fn PyLong_AsUnsignedLong(object: *mut PyObject) -> c_ulong;
        fn PyLong_FromUnsignedLong(value: c_ulong) -> *mut PyObject;
        fn PyObject_IsTrue(object: *mut PyObject) -> c_int;
        fn PyDict_GetItemWithError(dict: *mut PyObject, key: *mut PyObject) -> *mut PyObject;
        fn PyDict_SetItem(dict: *mut PyObject, key: *mut PyObject, value: *mut PyObject) -> c_int;
        fn PyDict_SetDefault(dict: *mut PyObject, key: *mut PyObject, value: *mut PyObject) -> *mut PyObject;
        fn PyDict_SetItemString(dict: *mut PyObject, key: *const c_char, value: *mut PyObject) -> c_int;
        fn PyDict_DelItemString(dict: *mut PyObject, key: *const c_char) -> c_int;
        fn PyTuple_New(size: isize) -> *mut PyObject;
        fn PyTuple_SetItem(tuple: *mut PyObject, index: isize, item: *mut PyObject) -> c_int;
        fn PyTuple_Size(tuple: *mut PyObject) -> isize;
        fn PyTuple_GetSlice(tuple: *mut PyObject, from: isize, to: isize) -> *mut PyObject;
        fn PyTuple_GetItem(tuple: *mut PyObject, index: isize) -> *mut PyObject;
        fn PyList_New(size: isize) -> *mut PyObject;
        fn PyList_Append(list: *mut PyObject, item: *mut PyObject) -> c_int;
        fn PyList_Size(list: *mut PyObject) -> isize;
        fn PyList_GetItem(list: *mut PyObject, index: isize) -> *mut PyObject;
        fn PyList_SetItem(list: *mut PyObject, index: isize, item: *mut PyObject) -> c_int;
    }
    trampoline {
        fn PyEval_RestoreThread(state: *mut PyThreadState) = pep788_void_p;
        fn PyThreadState_Clear(state: *mut PyThreadState) = pep788_void_p;
        fn Py_DecRef(object: *mut PyObject) = pep788_void_p;
        fn PyErr_WriteUnraisable(object: *mut PyObject) = pep788_void_p;
        fn PyErr_CheckSignals() -> c_int = pep788_int;
        fn PyErr_Clear() = pep788_void;
        fn PyErr_Restore(kind: *mut PyObject, value: *mut PyObject, trace: *mut PyObject) = pep788_void_ppp;
        fn PyObject_GetAttrString(object: *mut PyObject, name: *const c_char) -> *mut PyObject = pep788_p_pp;
        fn PyObject_GetAttr(object: *mut PyObject, name: *mut PyObject) -> *mut PyObject = pep788_p_pp;
        fn PyDict_Values(dict: *mut PyObject) -> *mut PyObject = pep788_p_p;
        fn PySequence_List(sequence: *mut PyObject) -> *mut PyObject = pep788_p_p;
        fn PyImport_ImportModuleLevel(name: *const c_char) -> *mut PyObject = pep788_import;
        fn PyObject_CallObject(callable: *mut PyObject, arguments: *const PyObject) -> *mut PyObject = pep788_p_pp;
        fn PyObject_Call(callable: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> *mut PyObject = pep788_p_ppp;
        fn PyObject_RichCompareBool(object: *mut PyObject, other: *mut PyObject) -> c_int = pep788_equal;
    }
    // Some of these functions are private, so a version may come without them. The library has a way that does not
    // need them. The others are public, but not yet in all versions.
    optional {
        fn PySys_GetOptionalAttrString(name: *const c_char, value: *mut *mut PyObject) -> c_int;
        fn _PySys_GetOptionalAttrString(name: *const c_char, value: *mut *mut PyObject) -> c_int;
        fn PyList_GetItemRef(list: *mut PyObject, index: isize) -> *mut PyObject;
        fn PyDict_GetItemRef(dict: *mut PyObject, key: *mut PyObject, value: *mut *mut PyObject) -> c_int;
        fn _PyInterpreterState_LookUpID(id: i64) -> *mut PyInterpreterState;
        fn _PyOS_IsMainThread() -> c_int;
        fn _PyEval_AddPendingCall(interpreter: *mut PyInterpreterState, function: PendingCall, argument: *mut c_void) -> c_int;
    }
    data {
        PyExc_RuntimeError;
        PyExc_ImportError;
        PyExc_SystemError;
        PyExc_KeyboardInterrupt;
    }
}

// SAFETY: all fields are addresses of code and variables of CPython, which are the same for every thread.
unsafe impl Send for Api {}
// SAFETY: as above. No field is written through a shared reference to `Api`.
unsafe impl Sync for Api {}

impl Api {
    /// Returns whether a thread state of the calling thread is the attached one.
    #[inline]
    pub(crate) fn is_current(&self, own: *mut PyThreadState) -> bool {
        // SAFETY: any thread may make this call at any time.
        own == unsafe { self.unchecked_current() }
    }

    /// Calls `PyLong_AsUnsignedLong`, whose result is not as long on all systems.
    ///
    /// # Safety
    /// As for that function.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) unsafe fn number(&self, object: *mut PyObject) -> u64 {
        // SAFETY: by this function's contract.
        unsafe { self.PyLong_AsUnsignedLong(object) as u64 }
    }

    /// Returns the attached thread state. From 3.12 on it is the one of this thread. Before 3.12 it is the one that
    /// holds the GIL, and that may belong to any thread. See `current.rs`.
    #[inline]
    pub(super) unsafe fn unchecked_current(&self) -> *mut PyThreadState {
        // SAFETY: the function reads one word and needs nothing from its caller.
        unsafe { (self.current)() }
    }

    /// Returns the function that `unchecked_current` calls.
    pub(super) fn unchecked_current_itself(&self) -> UncheckedCurrent {
        self.current
    }

    /// Returns `PythonFinalizationError` where it exists (3.13+), and `RuntimeError` elsewhere.
    pub(crate) unsafe fn finalization_error(&self) -> *mut PyObject {
        if self.finalization_error.is_null() {
            // SAFETY: this variable exists in every version.
            unsafe { self.PyExc_RuntimeError() }
        } else {
            // SAFETY: this is the address of a variable of CPython.
            unsafe { *self.finalization_error }
        }
    }

    /// Returns whether all interpreters share one GIL. From 3.12 on each of them may have its own.
    pub(crate) fn has_one_gil(&self) -> bool {
        self.version < 0x030c
    }

    /// Asks the main thread to call `function`, attached to the main interpreter, which must still be there. Returns
    /// `false` if the queue of the main interpreter is full. Needs no thread state.
    pub(crate) fn call_in_main(&self, function: PendingCall) -> bool {
        let argument = core::ptr::null_mut();
        // SAFETY: both functions only queue `function`. The private one has this signature up to 3.11.
        unsafe {
            if self.version < 0x030c {
                // There the public function queues it for the interpreter of the thread that holds the GIL.
                let main = self.PyInterpreterState_Main();
                if main.is_null() {
                    return false;
                }
                if let Some(queued) = self._PyEval_AddPendingCall(main, function, argument) {
                    return queued == 0;
                }
            }
            self.Py_AddPendingCall(function, argument) == 0
        }
    }

    /// Returns `_PyRuntime`, or NULL.
    pub(super) fn runtime(&self) -> *const c_void {
        self.runtime
    }

    /// Returns a new reference to `None`.
    pub(crate) unsafe fn new_none(&self) -> *mut PyObject {
        // SAFETY: the caller promises that the thread is attached.
        unsafe { self.Py_IncRef(self.none) };
        self.none
    }

    pub(crate) fn is_none(&self, object: *mut PyObject) -> bool {
        object == self.none
    }
}
