//! The only code that touches CPython: its functions, found at run time, and what differs
//! between its versions.

mod api;
pub(crate) mod atexit;
mod current;
mod find;
mod frame;
mod glance;
mod native;
pub(crate) mod threading;
mod word;

pub(crate) use api::{Api, CapsuleDestructor, PyInterpreterState, PyObject, PyThreadState};
use api::{PyCFunction, PyCFunctionWithKeywords, PyMethodDef};
pub(crate) use current::{attached, live_interpreter, Attached, GilstateSlot};
pub(crate) use find::{address_of, get, get_or_fatal, is_in_executable};
pub(crate) use frame::innermost_frame;
pub(crate) use glance::{attached_word, holder, is_of, Glance};
pub(crate) use native::native;

use std::ffi::{c_char, c_int, CStr, CString};
use std::ptr::null_mut;

/// Ends the process as CPython's own fatal errors do: the function, the rule that was broken,
/// the traceback where there is one, `abort()`.
#[cold]
pub(crate) fn fatal(function: &str, rule: &str) -> ! {
    find::fatal_error(function, rule)
}

/// An owned reference, given up when dropped. Lives only while its thread is attached.
pub(crate) struct Owned {
    py: &'static Api,
    object: *mut PyObject,
}

impl Owned {
    /// Takes over a new reference; `None` for NULL, with CPython's exception left set.
    pub(crate) fn new(py: &'static Api, object: *mut PyObject) -> Option<Owned> {
        (!object.is_null()).then_some(Owned { py, object })
    }

    pub(crate) fn as_ptr(&self) -> *mut PyObject {
        self.object
    }

    /// Gives the reference away.
    pub(crate) fn into_ptr(self) -> *mut PyObject {
        std::mem::ManuallyDrop::new(self).object
    }

    /// An attribute, or `None` with the exception cleared.
    pub(crate) fn attribute(&self, name: &CStr) -> Option<Owned> {
        // SAFETY: the thread is attached while an `Owned` lives, and the object is alive.
        unsafe {
            let value = self.py.PyObject_GetAttrString(self.object, name.as_ptr());
            if value.is_null() {
                self.py.PyErr_Clear();
            }
            Owned::new(self.py, value)
        }
    }

    /// Calls it with one argument or none. `None`: failed, with the exception set.
    pub(crate) fn call(&self, argument: Option<&Owned>) -> Option<Owned> {
        // SAFETY: as above.
        unsafe {
            let arguments = tuple(self.py, argument.as_slice())?;
            Owned::new(self.py, self.py.PyObject_CallObject(self.object, arguments.object))
        }
    }

    /// One more reference to an object that somebody else owns; `None` for NULL.
    ///
    /// # Safety
    /// The thread is attached, and the object alive.
    pub(crate) unsafe fn of_borrowed(py: &'static Api, object: *mut PyObject) -> Option<Owned> {
        if !object.is_null() {
            // SAFETY: as the caller says.
            unsafe { py.Py_IncRef(object) };
        }
        Owned::new(py, object)
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> impl Iterator<Item = Owned> + '_ {
        // SAFETY: as above; the items are borrowed from the list, and then owned.
        (0..unsafe { self.py.PyList_Size(self.object) }).filter_map(|index| unsafe {
            Owned::of_borrowed(self.py, self.py.PyList_GetItem(self.object, index))
        })
    }

    /// The text of a string. `None`: it is none, or has no UTF-8; with the exception cleared.
    pub(crate) fn utf8(&self) -> Option<&[u8]> {
        let mut length = 0;
        // SAFETY: as above; CPython keeps the text with the string.
        unsafe {
            let text = self.py.PyUnicode_AsUTF8AndSize(self.object, &mut length);
            if text.is_null() {
                self.py.PyErr_Clear();
                return None;
            }
            Some(std::slice::from_raw_parts(text.cast(), length as usize))
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let truth = self.py.PyObject_IsTrue(self.object);
            if truth < 0 {
                self.py.PyErr_Clear();
            }
            truth > 0
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and the thread is attached.
        unsafe { self.py.Py_DecRef(self.object) }
    }
}

/// A module that is loaded already, or about to be; nothing is imported. Leaves no exception.
///
/// Not by `PyImport_GetModule`, which waits for a thread that is in the middle of importing it: maybe
/// one that waits for the calling thread, or that a forked child does not have.
///
/// # Safety
/// The thread is attached.
pub(crate) unsafe fn loaded_module(py: &'static Api, name: &CStr) -> Option<Owned> {
    // SAFETY: attached, says the caller; both objects are borrowed, and the module then owned.
    unsafe {
        let module = modules(py).and_then(|modules| {
            let name = Owned::new(py, py.PyUnicode_FromString(name.as_ptr()))?;
            Owned::of_borrowed(py, py.PyDict_GetItemWithError(modules.as_ptr(), name.as_ptr()))
        });
        if module.is_none() {
            py.PyErr_Clear();
        }
        module
    }
}

/// `sys.modules`. `None`: out of memory, perhaps with an exception.
///
/// # Safety
/// The thread is attached.
unsafe fn modules(py: &'static Api) -> Option<Owned> {
    const NAME: *const c_char = c"modules".as_ptr();
    let mut modules = null_mut();
    // SAFETY: attached, says the caller; `modules` is a valid place, for a reference of ours.
    unsafe {
        // From 3.13 on the last one prints an exception, and other threads run meanwhile.
        let found = py
            .PySys_GetOptionalAttrString(NAME, &mut modules)
            .or_else(|| py._PySys_GetOptionalAttrString(NAME, &mut modules));
        match found {
            Some(_) => Owned::new(py, modules),
            None => Owned::of_borrowed(py, py.PySys_GetObject(NAME)),
        }
    }
}

/// A function of ours that Python calls.
pub(crate) struct MethodDef(PyMethodDef);

// SAFETY: CPython only reads it, and so do we.
unsafe impl Sync for MethodDef {}

impl MethodDef {
    pub(crate) const fn no_arguments(
        name: &'static CStr,
        function: PyCFunction,
        doc: &'static CStr,
    ) -> MethodDef {
        const METH_NOARGS: c_int = 0x0004;
        MethodDef::new(name, function, METH_NOARGS, doc)
    }

    pub(crate) const fn one_argument(
        name: &'static CStr,
        function: PyCFunction,
        doc: &'static CStr,
    ) -> MethodDef {
        const METH_O: c_int = 0x0008;
        MethodDef::new(name, function, METH_O, doc)
    }

    /// It is called with a tuple, and a dict or NULL.
    pub(crate) const fn any_arguments(
        name: &'static CStr,
        function: PyCFunctionWithKeywords,
        doc: &'static CStr,
    ) -> MethodDef {
        const METH_VARARGS_KEYWORDS: c_int = 0x0001 | 0x0002;
        // SAFETY: with these flags CPython calls it as what it is.
        let function =
            unsafe { std::mem::transmute::<PyCFunctionWithKeywords, PyCFunction>(function) };
        MethodDef::new(name, function, METH_VARARGS_KEYWORDS, doc)
    }

    const fn new(
        name: &'static CStr,
        function: PyCFunction,
        flags: c_int,
        doc: &'static CStr,
    ) -> MethodDef {
        MethodDef(PyMethodDef {
            name: name.as_ptr(),
            function: Some(function),
            flags,
            doc: doc.as_ptr(),
        })
    }

    /// The function as an object, bound to `this`. `None`: out of memory, with an exception.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn function(&'static self, py: &'static Api, this: &Owned) -> Option<Owned> {
        let method = std::ptr::from_ref(&self.0).cast_mut();
        // SAFETY: attached, says the caller; the definition lives for ever.
        unsafe { Owned::new(py, py.PyCFunction_NewEx(method, this.object, null_mut())) }
    }
}

/// A new tuple. `None`: out of memory, with an exception.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn tuple(py: &'static Api, items: &[&Owned]) -> Option<Owned> {
    // SAFETY: attached, says the caller; the tuple takes over the references made for it.
    unsafe {
        let tuple = Owned::new(py, py.PyTuple_New(items.len() as isize))?;
        for (index, item) in items.iter().enumerate() {
            py.Py_IncRef(item.object);
            py.PyTuple_SetItem(tuple.object, index as isize, item.object);
        }
        Some(tuple)
    }
}

/// Puts the exception that is set now back when dropped, whatever happened in between.
pub(crate) struct KeepException {
    py: &'static Api,
    saved: [*mut PyObject; 3],
}

impl KeepException {
    /// # Safety
    /// The thread is attached, and still is when the value is dropped.
    pub(crate) unsafe fn new(py: &'static Api) -> Self {
        let mut saved = [std::ptr::null_mut(); 3];
        let [kind, value, trace] = &mut saved;
        // SAFETY: attached; the three places are valid.
        unsafe { py.PyErr_Fetch(kind, value, trace) };
        KeepException { py, saved }
    }
}

impl Drop for KeepException {
    fn drop(&mut self) {
        let [kind, value, trace] = self.saved;
        // SAFETY: gives the three references back; attached, says `new`.
        unsafe { self.py.PyErr_Restore(kind, value, trace) }
    }
}

/// Text for C. Interior NULs cannot occur in our own messages; they would end the text.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
