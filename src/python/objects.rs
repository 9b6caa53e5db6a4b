//! Python objects, and the exception that is set.

use std::ffi::{c_int, CStr};
use std::ptr::null_mut;

use super::api::{Api, PyCFunction, PyCFunctionWithKeywords, PyMethodDef, PyObject};

/// An owned reference, given up when dropped. Lives only while its thread is attached.
pub(crate) struct Owned {
    pub(super) py: &'static Api,
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
        // SAFETY: attached while an `Owned` lives, which keeps the object.
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
        // SAFETY: attached while an `Owned` lives, which keeps the object.
        (0..unsafe { self.py.PyList_Size(self.object) }).filter_map(|index| self.item(index))
    }

    /// An item of a list. `None`: it has not so many. Leaves no exception.
    pub(crate) fn item(&self, index: isize) -> Option<Owned> {
        // SAFETY: as above. Without a GIL another thread may take the item out of the list at any time, so there it
        // is never borrowed: CPython has had the first function for as long as it can do without one.
        unsafe {
            let item = match self.py.PyList_GetItemRef(self.object, index) {
                Some(item) => Owned::new(self.py, item),
                None => Owned::of_borrowed(self.py, self.py.PyList_GetItem(self.object, index)),
            };
            if item.is_none() {
                self.py.PyErr_Clear();
            }
            item
        }
    }

    /// What a dict has under a key. `None`: nothing, or failed. Leaves no exception.
    pub(crate) fn value(&self, key: &Owned) -> Option<Owned> {
        let (dict, key) = (self.object, key.object);
        let mut value = null_mut();
        // SAFETY: as in `item`; `value` is a valid place, for a reference of ours.
        unsafe {
            let value = match self.py.PyDict_GetItemRef(dict, key, &mut value) {
                Some(_) => Owned::new(self.py, value),
                None => Owned::of_borrowed(self.py, self.py.PyDict_GetItemWithError(dict, key)),
            };
            if value.is_none() {
                self.py.PyErr_Clear();
            }
            value
        }
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
        // SAFETY: attached while an `Owned` lives, which keeps the object.
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
    // SAFETY: attached, says the caller.
    unsafe {
        let module = sys(py, c"modules").and_then(|modules| {
            modules.value(&Owned::new(py, py.PyUnicode_FromString(name.as_ptr()))?)
        });
        if module.is_none() {
            py.PyErr_Clear();
        }
        module
    }
}

/// Whether the attached interpreter has begun to be taken apart: it runs no exit callbacks any more. Leaves no exception.
///
/// # Safety
/// The thread is attached.
pub(crate) unsafe fn is_taken_apart(py: &'static Api) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        // CPython's first step, and how it tells by itself. Later there is nothing at all, and nothing is imported.
        let meta_path = sys(py, c"meta_path");
        py.PyErr_Clear();
        meta_path.is_some_and(|meta_path| py.is_none(meta_path.as_ptr()))
    }
}

/// What `sys` has under that name. `None`: nothing, or out of memory, perhaps with an exception.
///
/// # Safety
/// The thread is attached.
pub(super) unsafe fn sys(py: &'static Api, name: &CStr) -> Option<Owned> {
    let mut value = null_mut();
    // SAFETY: attached, says the caller; `value` is a valid place, for a reference of ours.
    unsafe {
        // From 3.13 on the last one prints an exception, and other threads run meanwhile.
        let found = py
            .PySys_GetOptionalAttrString(name.as_ptr(), &mut value)
            .or_else(|| py._PySys_GetOptionalAttrString(name.as_ptr(), &mut value));
        match found {
            Some(_) => Owned::new(py, value),
            None => Owned::of_borrowed(py, py.PySys_GetObject(name.as_ptr())),
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
        // SAFETY: attached, says the caller; the definition is never freed.
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
pub(crate) struct KeepException(Option<Exception>);

impl KeepException {
    /// # Safety
    /// The thread is attached, and still is when the value is dropped.
    pub(crate) unsafe fn new(py: &'static Api) -> Self {
        // SAFETY: attached, says the caller.
        KeepException(Some(unsafe { Exception::take(py) }))
    }
}

impl Drop for KeepException {
    fn drop(&mut self) {
        if let Some(exception) = self.0.take() {
            exception.set();
        }
    }
}

/// An exception that CPython raised, for somebody to set again. Lives only while its thread is attached.
pub(crate) struct Exception {
    py: &'static Api,
    parts: [*mut PyObject; 3],
}

impl Exception {
    /// The one that is set, which is not any more.
    ///
    /// # Safety
    /// The thread is attached.
    pub(crate) unsafe fn take(py: &'static Api) -> Exception {
        let mut parts = [null_mut(); 3];
        let [kind, value, trace] = &mut parts;
        // SAFETY: attached; the three places are valid.
        unsafe { py.PyErr_Fetch(kind, value, trace) };
        Exception { py, parts }
    }

    /// Whether it was raised with this text.
    pub(crate) fn has_text(&self, text: &[u8]) -> bool {
        // SAFETY: attached, as `self` lives, which has references to its parts. The item is borrowed from a tuple.
        unsafe {
            let Some(value) = Owned::of_borrowed(self.py, self.parts[1]) else { return false };
            // Raised by C code, the text itself may be there, for the exception to be made with.
            let of_exception = value.attribute(c"args").and_then(|arguments| {
                let first = self.py.PyTuple_GetItem(arguments.as_ptr(), 0);
                Owned::of_borrowed(self.py, first)
            });
            let said = of_exception.as_ref().unwrap_or(&value).utf8() == Some(text);
            self.py.PyErr_Clear();
            said
        }
    }

    pub(crate) fn set(mut self) {
        let [kind, value, trace] = std::mem::replace(&mut self.parts, [null_mut(); 3]);
        // SAFETY: attached, as `self` lives; gives the three references away.
        unsafe { self.py.PyErr_Restore(kind, value, trace) }
    }
}

impl Drop for Exception {
    fn drop(&mut self) {
        for part in self.parts {
            // It may be NULL.
            drop(Owned::new(self.py, part));
        }
    }
}
