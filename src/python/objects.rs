//! Owned references to Python objects, and the exception that is set.

use core::ffi::{c_int, CStr};
use core::ptr::null_mut;

use super::api::{Api, PyCFunction, PyCFunctionWithKeywords, PyMethodDef, PyObject};

/// An owned reference. It is given up when the value is dropped. The value lives only while its thread is attached.
pub(crate) struct Owned {
    pub(super) py: &'static Api,
    object: *mut PyObject,
}

impl Owned {
    /// Takes over a new reference. Returns `None` for NULL, and leaves CPython's exception set.
    pub(crate) fn new(py: &'static Api, object: *mut PyObject) -> Option<Owned> {
        (!object.is_null()).then_some(Owned { py, object })
    }

    pub(crate) fn as_ptr(&self) -> *mut PyObject {
        self.object
    }

    /// Gives the reference away.
    pub(crate) fn into_ptr(self) -> *mut PyObject {
        core::mem::ManuallyDrop::new(self).object
    }

    /// Returns an attribute. If there is none, clears the exception and returns `None`.
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

    /// Calls the object with one argument or none. Returns `None` if that failed, with the exception set.
    pub(crate) fn call(&self, argument: Option<&Owned>) -> Option<Owned> {
        // SAFETY: the thread is attached while an `Owned` lives, and `self` keeps the object alive.
        unsafe {
            let arguments = tuple(self.py, argument.as_slice())?;
            Owned::new(self.py, self.py.PyObject_CallObject(self.object, arguments.object))
        }
    }

    /// Takes one more reference to an object that has another owner. Returns `None` for NULL.
    ///
    /// # Safety
    /// The thread is attached, and the object alive.
    pub(crate) unsafe fn of_borrowed(py: &'static Api, object: *mut PyObject) -> Option<Owned> {
        if !object.is_null() {
            // SAFETY: attached, and the object is alive, by this function's contract.
            unsafe { py.Py_IncRef(object) };
        }
        Owned::new(py, object)
    }

    /// Returns the items of a list, one after the other.
    pub(crate) fn items(&self) -> impl Iterator<Item = Owned> + '_ {
        // SAFETY: the thread is attached while an `Owned` lives, and `self` keeps the object alive.
        (0..unsafe { self.py.PyList_Size(self.object) }).filter_map(|index| self.item(index))
    }

    /// Returns an item of a list. Returns `None` if the list has no such item. Leaves no exception set.
    pub(crate) fn item(&self, index: isize) -> Option<Owned> {
        // SAFETY: the thread is attached while an `Owned` lives, and `self` keeps the object alive. Without a GIL
        // another thread may take the item out of the list at any time, so there the item is never borrowed: CPython
        // has had `PyList_GetItemRef` for as long as it can run without a GIL.
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

    /// Returns what a dict has under a key. Returns `None` if there is nothing, or if that failed. Leaves no
    /// exception set.
    pub(crate) fn value(&self, key: &Owned) -> Option<Owned> {
        let (dict, key) = (self.object, key.object);
        let mut value = null_mut();
        // SAFETY: as in `item`. `value` is a valid place, for a reference that this function owns.
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

    /// Returns the text of a string. Returns `None`, with the exception cleared, if it is not a string or has no
    /// UTF-8.
    pub(crate) fn utf8(&self) -> Option<&[u8]> {
        let mut length = 0;
        // SAFETY: as in `item`. CPython keeps the text with the string.
        unsafe {
            let text = self.py.PyUnicode_AsUTF8AndSize(self.object, &mut length);
            if text.is_null() {
                self.py.PyErr_Clear();
                return None;
            }
            Some(core::slice::from_raw_parts(text.cast(), length as usize))
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        // SAFETY: the thread is attached while an `Owned` lives, and `self` keeps the object alive.
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
        // SAFETY: `self` owns the reference, and the thread is attached.
        unsafe { self.py.Py_DecRef(self.object) }
    }
}

/// Returns a module that is loaded already, or about to be. Imports nothing. Leaves no exception set.
///
/// Does not use `PyImport_GetModule`, which waits for a thread that is in the middle of importing the module. That
/// thread may wait for the calling thread, or a forked child may not have it.
///
/// # Safety
/// The thread is attached.
pub(crate) unsafe fn loaded_module(py: &'static Api, name: &CStr) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
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

/// Returns whether CPython has begun to take the attached interpreter apart. If so, the interpreter runs no exit
/// callbacks any more. Leaves no exception set.
///
/// # Safety
/// The thread is attached.
pub(crate) unsafe fn is_taken_apart(py: &'static Api) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        // As its first step CPython sets `sys.meta_path` to `None`, and CPython itself tells by that. Later there is
        // no `sys.meta_path` at all, and nothing is imported.
        let meta_path = sys(py, c"meta_path");
        py.PyErr_Clear();
        meta_path.is_some_and(|meta_path| py.is_none(meta_path.as_ptr()))
    }
}

/// Returns what `sys` has under that name. Returns `None` if there is nothing, or if there is no memory. An exception
/// may be set then.
///
/// # Safety
/// The thread is attached.
pub(super) unsafe fn sys(py: &'static Api, name: &CStr) -> Option<Owned> {
    let mut value = null_mut();
    // SAFETY: attached, by this function's contract. `value` is a valid place, for a reference that this function
    // owns.
    unsafe {
        // From 3.13 on the last function prints an exception, and other threads run meanwhile.
        let found = py
            .PySys_GetOptionalAttrString(name.as_ptr(), &mut value)
            .or_else(|| py._PySys_GetOptionalAttrString(name.as_ptr(), &mut value));
        match found {
            Some(_) => Owned::new(py, value),
            None => Owned::of_borrowed(py, py.PySys_GetObject(name.as_ptr())),
        }
    }
}

/// A function of the library that Python calls.
pub(crate) struct MethodDef(PyMethodDef);

// SAFETY: CPython only reads the definition, and so does the library.
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

    /// Defines a function that is called with a tuple, and a dict or NULL.
    pub(crate) const fn any_arguments(
        name: &'static CStr,
        function: PyCFunctionWithKeywords,
        doc: &'static CStr,
    ) -> MethodDef {
        const METH_VARARGS_KEYWORDS: c_int = 0x0001 | 0x0002;
        // SAFETY: with these flags CPython calls the function with its own type.
        let function =
            unsafe { core::mem::transmute::<PyCFunctionWithKeywords, PyCFunction>(function) };
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

    /// Returns the function as an object, bound to `this`. Returns `None` if there is no memory, with an exception
    /// set.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn function(&'static self, py: &'static Api, this: &Owned) -> Option<Owned> {
        let method = core::ptr::from_ref(&self.0).cast_mut();
        // SAFETY: attached, by this function's contract. The definition is never freed.
        unsafe { Owned::new(py, py.PyCFunction_NewEx(method, this.object, null_mut())) }
    }
}

/// Makes a new tuple. Returns `None` if there is no memory, with an exception set.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn tuple(py: &'static Api, items: &[&Owned]) -> Option<Owned> {
    // SAFETY: attached, by this function's contract. The tuple takes over the references that are made for it.
    unsafe {
        let tuple = Owned::new(py, py.PyTuple_New(items.len() as isize))?;
        for (index, item) in items.iter().enumerate() {
            py.Py_IncRef(item.object);
            py.PyTuple_SetItem(tuple.object, index as isize, item.object);
        }
        Some(tuple)
    }
}

/// Takes the exception that is set now, and sets it again when dropped, whatever happened in between.
pub(crate) struct KeepException(Option<Exception>);

impl KeepException {
    /// # Safety
    /// The thread is attached. It is still attached when the value is dropped.
    pub(crate) unsafe fn new(py: &'static Api) -> Self {
        // SAFETY: attached, by this function's contract.
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

/// An exception that CPython raised, kept to be set again. It lives only while its thread is attached.
pub(crate) struct Exception {
    py: &'static Api,
    parts: [*mut PyObject; 3],
}

impl Exception {
    /// Takes the exception that is set. After that no exception is set.
    ///
    /// # Safety
    /// The thread is attached.
    pub(crate) unsafe fn take(py: &'static Api) -> Exception {
        let mut parts = [null_mut(); 3];
        let [kind, value, trace] = &mut parts;
        // SAFETY: attached, by this function's contract. The three places are valid.
        unsafe { py.PyErr_Fetch(kind, value, trace) };
        Exception { py, parts }
    }

    /// Returns whether the exception was raised with this text.
    pub(crate) fn has_text(&self, text: &[u8]) -> bool {
        // SAFETY: the thread is attached while `self` lives, and `self` has references to its parts. The item is
        // borrowed from a tuple.
        unsafe {
            let Some(value) = Owned::of_borrowed(self.py, self.parts[1]) else { return false };
            // If C code raised the exception, the text itself may be there. CPython makes the exception from it
            // later.
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
        let [kind, value, trace] = core::mem::replace(&mut self.parts, [null_mut(); 3]);
        // SAFETY: the thread is attached while `self` lives. `PyErr_Restore` takes over the three references.
        unsafe { self.py.PyErr_Restore(kind, value, trace) }
    }
}

impl Drop for Exception {
    fn drop(&mut self) {
        for part in self.parts {
            // A part may be NULL.
            drop(Owned::new(self.py, part));
        }
    }
}
