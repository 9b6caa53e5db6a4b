//! What the library does with `atexit`: mainly, it notes callbacks that come while an exit waits.
//!
//! Up to 3.14 CPython drops callbacks that are registered while the exit callbacks run. From 3.15 on CPython runs
//! them after the exit callback that waits. So while an exit callback waits, `atexit.register` and
//! `atexit.unregister` are functions of this library. They note the callbacks, and the exit callback that waits runs
//! them.
//!
//! No callback is lost by that. Once the wait is over, and in a forked child, the two functions pass their calls on
//! to CPython's own functions. Code that took CPython's `register` by name before the wait is not reached. The
//! library's own exit callback is registered elsewhere.

use core::ffi::{c_int, c_ulong, c_void, CStr};
use core::ptr::null_mut;

use super::api::{Api, PyObject};
use super::find::get;
use super::objects::{loaded_module, tuple, MethodDef, Owned};
use crate::os::process_id;

extern "C" {
    // In `calls.c`.
    fn pep788_is_below(function: *const c_void) -> c_int;
}

/// Returns whether `atexit._run_exitfuncs()` is running the exit callbacks. If so, the C function behind it is on
/// this thread's stack.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn is_run_by_hand(py: &'static Api) -> bool {
    // SAFETY: attached, by this function's contract. The walk up the stack only reads.
    unsafe {
        let run =
            loaded_module(py, c"atexit").and_then(|module| module.attribute(c"_run_exitfuncs"));
        let function = run.map_or(null_mut(), |run| py.PyCFunction_GetFunction(run.as_ptr()));
        if function.is_null() {
            // It is not a C function any more.
            py.PyErr_Clear();
            return false;
        }
        pep788_is_below(function) != 0
    }
}

/// Returns `atexit.register` if it is CPython's own: a C function.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn own_register(py: &'static Api) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let register = loaded_module(py, c"atexit")?.attribute(NAMES[0])?;
        let function = py.PyCFunction_GetFunction(register.as_ptr());
        (!function.is_null()).then_some(register)
    }
}

static REGISTER: MethodDef = MethodDef::any_arguments(
    c"register",
    register,
    c"Register a function to be executed before the exit that waits goes on.",
);
static UNREGISTER: MethodDef = MethodDef::one_argument(
    c"unregister",
    unregister,
    c"Unregister an exit function which was previously registered using atexit.register.",
);

/// The names of the two functions. Every array of two in this file has this order.
const NAMES: [&CStr; 2] = [c"register", c"unregister"];

/// What the library's two functions know. It is a Python list, because Python code may keep the functions.
struct Noting<'a> {
    py: &'static Api,
    list: &'a Owned,
}

impl Noting<'_> {
    // CPython's own two functions are the first items of the list. Then comes the process that waits.
    const PROCESS: isize = 2;
    // Then comes the list of the callbacks, oldest first. It is `None` once the wait is over. A callback that was
    // taken out leaves `None` in its place, because that needs no memory.
    const CALLBACKS: isize = 3;

    /// Returns the list of the callbacks, if callbacks are to be noted.
    fn callbacks(&self) -> Option<Owned> {
        let callbacks = self.list.item(Noting::CALLBACKS)?;
        let process = self.list.item(Noting::PROCESS)?;
        // SAFETY: the thread is attached while an `Owned` lives, and the item at `PROCESS` is a number.
        let is_here = unsafe { self.py.PyLong_AsUnsignedLong(process.as_ptr()) } == this_process();
        (is_here && !self.py.is_none(callbacks.as_ptr())).then_some(callbacks)
    }
}

fn this_process() -> c_ulong {
    c_ulong::from(process_id())
}

/// Implements `atexit.register(function, *arguments, **keywords)`.
unsafe extern "C" fn register(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    let Some(py) = get() else { return null_mut() };
    // SAFETY: CPython calls this function attached, with the list made below, a tuple, and a dict or NULL.
    unsafe {
        let Some(list) = Owned::of_borrowed(py, this) else { return null_mut() };
        let noting = Noting { py, list: &list };
        let size = py.PyTuple_Size(arguments);
        let function = if size == 0 { null_mut() } else { py.PyTuple_GetItem(arguments, 0) };
        let is_callable = !function.is_null() && py.PyCallable_Check(function) != 0;
        // If the object cannot be registered, CPython's own function, called below, says so.
        if let Some(callbacks) = noting.callbacks().filter(|_| is_callable) {
            let Some(function) = Owned::of_borrowed(py, function) else { return null_mut() };
            let arguments = Owned::new(py, py.PyTuple_GetSlice(arguments, 1, size));
            let keywords = Owned::of_borrowed(py, keywords);
            let callback = arguments.and_then(|arguments| match &keywords {
                Some(keywords) => tuple(py, &[&function, &arguments, keywords]),
                None => tuple(py, &[&function, &arguments]),
            });
            let noted = callback.is_some_and(|callback| {
                py.PyList_Append(callbacks.as_ptr(), callback.as_ptr()) == 0
            });
            return if noted { function.into_ptr() } else { null_mut() };
        }
        match list.item(0) {
            Some(original) => py.PyObject_Call(original.as_ptr(), arguments, keywords),
            None => null_mut(),
        }
    }
}

/// Implements `atexit.unregister(function)`.
unsafe extern "C" fn unregister(this: *mut PyObject, function: *mut PyObject) -> *mut PyObject {
    let Some(py) = get() else { return null_mut() };
    // SAFETY: CPython calls this function attached, with the list made below, and an object.
    unsafe {
        let list = Owned::of_borrowed(py, this);
        let function = Owned::of_borrowed(py, function);
        let (Some(list), Some(function)) = (list, function) else { return null_mut() };
        let noting = Noting { py, list: &list };
        if let Some(callbacks) = noting.callbacks() {
            for index in (0..py.PyList_Size(callbacks.as_ptr())).rev() {
                // A comparison may run code that changes the list.
                let Some(LateCallback(callback)) = LateCallback::at(index, &callbacks) else {
                    continue;
                };
                let noted = py.PyTuple_GetItem(callback.as_ptr(), 0);
                let equal = py.PyObject_RichCompareBool(noted, function.as_ptr());
                if equal < 0 {
                    return null_mut();
                }
                let is_there = |now: Owned| now.as_ptr() == callback.as_ptr();
                if equal == 1 && callbacks.item(index).is_some_and(is_there) {
                    py.PyList_SetItem(callbacks.as_ptr(), index, py.new_none());
                }
            }
        }
        let result = list.item(1).and_then(|original| original.call(Some(&function)));
        result.map_or(null_mut(), Owned::into_ptr)
    }
}

/// The callbacks that are registered while an exit waits.
pub(crate) struct LateCallbacks {
    py: &'static Api,
    /// See [`Noting`].
    list: Owned,
    functions: [Owned; 2],
    /// Kept with the names, so that CPython's functions can be put back without memory.
    module: Owned,
    names: [Owned; 2],
}

impl LateCallbacks {
    /// Makes `atexit` note the callbacks from now on. Returns `None` if `atexit` was never loaded, or if there is no
    /// memory. Leaves no exception set.
    ///
    /// # Safety
    /// The calling thread is attached, and it is attached whenever the value is used.
    pub(crate) unsafe fn note(py: &'static Api) -> Option<LateCallbacks> {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let late = LateCallbacks::new(py);
            match &late {
                Some(late) if !late.stand_in() => {
                    py.PyErr_Clear();
                    late.step_down();
                }
                Some(_) => return late,
                None => {}
            }
            py.PyErr_Clear();
            None
        }
    }

    /// # Safety
    /// The calling thread is attached.
    unsafe fn new(py: &'static Api) -> Option<LateCallbacks> {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let module = loaded_module(py, c"atexit")?;
            let list = Owned::new(py, py.PyList_New(0))?;
            let process = Owned::new(py, py.PyLong_FromUnsignedLong(this_process()))?;
            let callbacks = Owned::new(py, py.PyList_New(0))?;
            let [register, unregister] = NAMES.map(|name| module.attribute(name));
            for item in [register?, unregister?, process, callbacks] {
                if py.PyList_Append(list.as_ptr(), item.as_ptr()) != 0 {
                    return None;
                }
            }
            let functions = [REGISTER.function(py, &list)?, UNREGISTER.function(py, &list)?];
            let [register, unregister] = NAMES.map(CStr::as_ptr);
            let register = Owned::new(py, py.PyUnicode_FromString(register))?;
            let names = [register, Owned::new(py, py.PyUnicode_FromString(unregister))?];
            Some(LateCallbacks { py, list, functions, module, names })
        }
    }

    /// # Safety
    /// The calling thread is attached.
    unsafe fn stand_in(&self) -> bool {
        // SAFETY: attached, by this function's contract. The dict is borrowed from the module.
        unsafe {
            let dict = self.py.PyModule_GetDict(self.module.as_ptr());
            !dict.is_null()
                && self.names.iter().zip(&self.functions).all(|(name, function)| {
                    self.py.PyDict_SetItem(dict, name.as_ptr(), function.as_ptr()) == 0
                })
        }
    }

    /// Puts CPython's own functions back, unless other code has replaced the library's functions.
    ///
    /// # Safety
    /// The calling thread is attached.
    unsafe fn step_down(&self) {
        // SAFETY: attached, by this function's contract. The dict is borrowed from the module, which keeps it.
        unsafe {
            let dict = self.py.PyModule_GetDict(self.module.as_ptr());
            let Some(dict) = Owned::of_borrowed(self.py, dict) else { return };
            for (index, name) in self.names.iter().enumerate() {
                let is_ours = |now: Owned| now.as_ptr() == self.functions[index].as_ptr();
                if dict.value(name).is_some_and(is_ours) {
                    if let Some(original) = self.list.item(index as isize) {
                        self.py.PyDict_SetItem(dict.as_ptr(), name.as_ptr(), original.as_ptr());
                    }
                }
            }
            self.py.PyErr_Clear();
        }
    }

    /// Takes the youngest callback out of the list. The caller runs it.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn take(&self) -> Option<LateCallback> {
        let callbacks = self.list.item(Noting::CALLBACKS)?;
        LateCallback::youngest(self.py, &callbacks)
    }

    /// Ends the noting: the wait is over, and CPython's own functions are put back. If callbacks are noted
    /// nevertheless, `run` runs them now, so nothing registered is lost.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn end(self, mut run: impl FnMut(LateCallback)) {
        // SAFETY: attached, by this function's contract.
        unsafe {
            self.step_down();
            let callbacks = self.list.item(Noting::CALLBACKS);
            // Python code may have kept the library's functions.
            self.py.PyList_SetItem(self.list.as_ptr(), Noting::CALLBACKS, self.py.new_none());
            while let Some(callback) =
                callbacks.as_ref().and_then(|left| LateCallback::youngest(self.py, left))
            {
                run(callback);
            }
        }
    }
}

/// A callback with its arguments.
pub(crate) struct LateCallback(Owned);

impl LateCallback {
    fn youngest(py: &'static Api, callbacks: &Owned) -> Option<LateCallback> {
        // SAFETY: the thread is attached while an `Owned` lives.
        unsafe {
            let size = py.PyList_Size(callbacks.as_ptr());
            let noted = |index| Some((index, LateCallback::at(index, callbacks)?));
            let (index, callback) = (0..size).rev().find_map(noted)?;
            py.PyList_SetItem(callbacks.as_ptr(), index, py.new_none());
            Some(callback)
        }
    }

    /// Returns the callback at that index. Returns `None` if it was taken out, or if there is no such index.
    fn at(index: isize, callbacks: &Owned) -> Option<LateCallback> {
        let is_there = |noted: &Owned| !noted.py.is_none(noted.as_ptr());
        callbacks.item(index).filter(is_there).map(LateCallback)
    }

    /// Runs the callback. The error is the function, with its exception set.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn run(self, py: &'static Api) -> Result<(), Owned> {
        let callback = self.0.as_ptr();
        // SAFETY: attached, by this function's contract. The callback is a tuple that `register` made.
        unsafe {
            let function = py.PyTuple_GetItem(callback, 0);
            let arguments = py.PyTuple_GetItem(callback, 1);
            let has_keywords = py.PyTuple_Size(callback) > 2;
            let keywords = if has_keywords { py.PyTuple_GetItem(callback, 2) } else { null_mut() };
            match Owned::new(py, py.PyObject_Call(function, arguments, keywords)) {
                Some(_) => Ok(()),
                None => Owned::of_borrowed(py, function).map_or(Ok(()), Err),
            }
        }
    }
}
