//! What the library asks of Python's `threading`, if a program has loaded it. Nothing here
//! imports it, and nothing here leaves an exception set.

use std::ffi::CStr;
use std::ptr::null_mut;

use super::{loaded_module, Api, KeepException, MethodDef, Owned, PyObject};

const THREADING: &CStr = c"threading";

/// Whether the exit has begun: `threading._shutdown()` comes before the exit callbacks. `None`:
/// nobody to ask.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn is_shutting_down(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, says the caller.
    let threading = unsafe { loaded_module(py, THREADING) }?;
    Some(threading.attribute(c"_SHUTTING_DOWN")?.is_true())
}

/// `daemon` of this thread's `threading.Thread`; `None` if `threading` did not start it.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn is_daemon(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, says the caller.
    unsafe {
        let _exception = KeepException::new(py);
        let threading = loaded_module(py, THREADING)?;
        // Up to 3.12 whichever thread loads `threading` passes for the main one.
        let main = threading.attribute(c"_main_thread")?;
        let thread = this_thread(py, &threading)?;
        (thread.as_ptr() != main.as_ptr()).then(|| is_daemon_thread(&thread))?
    }
}

/// The name of this thread's `threading.Thread`; `None` if there is none.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn name(py: &'static Api) -> Option<Owned> {
    // SAFETY: attached, says the caller.
    unsafe { this_thread(py, &loaded_module(py, THREADING)?)?.attribute(c"_name") }
}

/// This thread's `threading.Thread`. Leaves no exception.
///
/// # Safety
/// The calling thread is attached.
unsafe fn this_thread(py: &'static Api, threading: &Owned) -> Option<Owned> {
    let active = threading.attribute(c"_active")?;
    // SAFETY: attached, says the caller; the thread object is borrowed from a dict that only
    // attached threads change, and then owned.
    unsafe {
        let ident = py.PyLong_FromUnsignedLong(py.PyThread_get_thread_ident());
        let ident = Owned::new(py, ident)?;
        let thread = py.PyDict_GetItemWithError(active.as_ptr(), ident.as_ptr());
        if thread.is_null() {
            py.PyErr_Clear();
            return None;
        }
        py.Py_IncRef(thread);
        Owned::new(py, thread)
    }
}

fn is_daemon_thread(thread: &Owned) -> Option<bool> {
    // Not the property `daemon`, which runs Python code.
    Some(thread.attribute(c"_daemonic")?.is_true())
}

/// The threads that the exit joins by itself: those that are there when it begins to. One that
/// is alive after that was left behind on purpose, by a Ctrl-C; one that comes later is joined
/// by nobody but us.
pub(crate) struct JoinedByExit {
    threads: Owned,
}

static NOTE_THREADS: MethodDef =
    MethodDef::no_arguments(c"pep788_note_threads", note_threads, c"Notes the threads there are.");

/// Called with the list, at the beginning of `threading._shutdown()`.
unsafe extern "C" fn note_threads(list: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let Some(py) = super::get() else { return null_mut() };
    // SAFETY: CPython calls this attached, with the list.
    unsafe {
        for thread in all(py) {
            if py.PyList_Append(list, thread.as_ptr()) != 0 {
                py.PyErr_Clear();
            }
        }
        py.new_none()
    }
}

impl JoinedByExit {
    /// Has the threads noted when the exit begins. `None`: out of memory, with an exception.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn watch(py: &'static Api) -> Option<JoinedByExit> {
        // SAFETY: attached, says the caller.
        unsafe {
            let threads = Owned::new(py, py.PyList_New(0))?;
            let note = NOTE_THREADS.function(py, &threads)?;
            let register = loaded_module(py, THREADING)
                .and_then(|threading| threading.attribute(c"_register_atexit"));
            if register.is_some_and(|register| register.call(Some(&note)).is_none()) {
                // The exit has begun; `late` makes up for it.
                py.PyErr_Clear();
            }
            Some(JoinedByExit { threads })
        }
    }

    /// As an object to keep, and back from it.
    pub(crate) fn as_object(&self) -> &Owned {
        &self.threads
    }

    pub(crate) fn from_object(threads: Owned) -> JoinedByExit {
        JoinedByExit { threads }
    }

    /// Has this thread taken for one of those from now on: it cannot be joined.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn give_up(&self, py: &'static Api, thread: &Owned) {
        // SAFETY: attached, says the caller.
        unsafe {
            if py.PyList_Append(self.threads.as_ptr(), thread.as_ptr()) != 0 {
                py.PyErr_Clear();
            }
        }
    }

    /// A thread to be joined that came after those. If nobody noted them, because `threading`
    /// was loaded late, they are those of the first call.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn late_thread(&self, py: &'static Api) -> Option<Owned> {
        // SAFETY: attached, says the caller.
        unsafe {
            let main = loaded_module(py, THREADING)?.attribute(c"_main_thread")?;
            if py.PyList_Size(self.threads.as_ptr()) == 0 {
                Owned::new(py, note_threads(self.threads.as_ptr(), null_mut()))?;
            }
            let joined = self.threads.items();
            all(py).into_iter().find(|thread| {
                thread.as_ptr() != main.as_ptr()
                    && joined.iter().all(|known| known.as_ptr() != thread.as_ptr())
                    && is_daemon_thread(thread) == Some(false)
                    && is_running_elsewhere(py, thread)
            })
        }
    }
}

/// Whether it was started, and is not the calling thread.
///
/// # Safety
/// The calling thread is attached.
unsafe fn is_running_elsewhere(py: &'static Api, thread: &Owned) -> bool {
    let Some(ident) = thread.attribute(c"_ident") else { return false };
    // SAFETY: attached, says the caller.
    unsafe {
        let ident = py.PyLong_AsUnsignedLong(ident.as_ptr());
        let is_number = py.PyErr_Occurred().is_null();
        if !is_number {
            py.PyErr_Clear();
        }
        is_number && ident != py.PyThread_get_thread_ident()
    }
}

/// Joins a thread, as `threading` itself would. `false`: failed, with an exception set.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn join(py: &'static Api, thread: &Owned) -> bool {
    // SAFETY: attached, says the caller.
    let threading = unsafe { loaded_module(py, THREADING) };
    // Not the thread's own method, which a subclass may have changed.
    let join = threading
        .and_then(|threading| threading.attribute(c"Thread"))
        .and_then(|class| class.attribute(c"join"));
    join.is_none_or(|join| join.call(Some(thread)).is_some())
}

/// The threads that `threading` knows.
///
/// # Safety
/// The calling thread is attached.
unsafe fn all(py: &'static Api) -> Vec<Owned> {
    // SAFETY: attached, says the caller.
    unsafe {
        let enumerate =
            loaded_module(py, THREADING).and_then(|threading| threading.attribute(c"enumerate"));
        let Some(enumerate) = enumerate else { return Vec::new() };
        let Some(threads) = enumerate.call(None) else {
            py.PyErr_Clear();
            return Vec::new();
        };
        threads.items()
    }
}
