//! What the library asks of Python's `threading`, if a program has loaded it.
//!
//! Nothing here imports `threading`. Only `watch` leaves an exception set.

use alloc::vec::Vec;
use core::ffi::{c_ulong, CStr};
use core::ptr::null_mut;

use super::api::{Api, PyObject};
use super::find::get;
use super::objects::{loaded_module, KeepException, MethodDef, Owned};

const THREADING: &CStr = c"threading";

/// Returns whether the exit has begun: `threading._shutdown()` comes before the exit callbacks. Returns `None` if
/// `threading` cannot be asked.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn is_shutting_down(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, by this function's contract.
    let threading = unsafe { loaded_module(py, THREADING) }?;
    Some(threading.attribute(c"_SHUTTING_DOWN")?.is_true())
}

/// Puts the function that `make` makes in the place of `threading._shutdown`, which CPython calls when the exit begins.
/// Returns `None` if that failed. An exception may be set then.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn replace_shutdown(
    py: &'static Api,
    make: impl FnOnce(&Owned) -> Option<Owned>,
) -> Option<()> {
    const SHUTDOWN: &CStr = c"_shutdown";
    // SAFETY: attached, by this function's contract. The dict is borrowed from the module.
    unsafe {
        let threading = loaded_module(py, THREADING)?;
        let function = make(&threading.attribute(SHUTDOWN)?)?;
        let dict = py.PyModule_GetDict(threading.as_ptr());
        let done = py.PyDict_SetItemString(dict, SHUTDOWN.as_ptr(), function.as_ptr());
        (done == 0).then_some(())
    }
}

/// Returns `daemon` of this thread's `threading.Thread`. Returns `None` if `threading` did not start this thread.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn is_daemon(py: &'static Api) -> Option<bool> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let threading = loaded_module(py, THREADING)?;
        // Up to 3.12 the thread that loads `threading` counts as the main one, whichever thread it is.
        let main = threading.attribute(c"_main_thread")?;
        let thread = this_thread(py, &threading)?;
        if thread.as_ptr() == main.as_ptr() || is_dummy(&threading, &thread) {
            return None;
        }
        is_daemon_thread(&thread)
    }
}

/// Returns the kernel's numbers of the threads that `threading` started, as far as there is memory.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn native_ids(py: &'static Api) -> Vec<u64> {
    let mut ids = Vec::new();
    // SAFETY: attached, by this function's contract.
    unsafe {
        let (Some(threading), Some(threads)) = (loaded_module(py, THREADING), all(py)) else {
            return ids;
        };
        for thread in threads.items().filter(|thread| !is_dummy(&threading, thread)) {
            let Some(id) = thread.attribute(c"_native_id") else { continue };
            if !py.is_none(id.as_ptr()) && ids.try_reserve(1).is_ok() {
                ids.push(py.number(id.as_ptr()));
            }
        }
        py.PyErr_Clear();
    }
    ids
}

/// Returns the name of this thread's `threading.Thread`. Returns `None` if there is none.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn name(py: &'static Api) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe { this_thread(py, &loaded_module(py, THREADING)?)?.attribute(c"_name") }
}

/// Returns this thread's `threading.Thread`. Leaves no exception set.
///
/// # Safety
/// The calling thread is attached.
unsafe fn this_thread(py: &'static Api, threading: &Owned) -> Option<Owned> {
    let active = threading.attribute(c"_active")?;
    // SAFETY: attached, by this function's contract.
    let ident = unsafe {
        let ident = py.PyLong_FromUnsignedLong(py.PyThread_get_thread_ident());
        or_cleared(py, Owned::new(py, ident))?
    };
    active.value(&ident)
}

fn is_daemon_thread(thread: &Owned) -> Option<bool> {
    // The property `daemon` is not read, because that runs Python code.
    Some(thread.attribute(c"_daemonic")?.is_true())
}

/// The threads that the exit joins by itself: those that exist when it begins to join. If one of them is alive after
/// that, a Ctrl-C left it behind on purpose. A thread that comes later is joined by nobody but this library.
pub(crate) struct JoinedByExit {
    threads: Owned,
}

static NOTE_THREADS: MethodDef =
    MethodDef::no_arguments(c"pep788_note_threads", note_threads, c"Notes the threads there are.");

/// Notes the threads in the list that it is called with. CPython calls it at the beginning of
/// `threading._shutdown()`.
unsafe extern "C" fn note_threads(list: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let Some(py) = get() else { return null_mut() };
    // SAFETY: CPython calls this function attached, with the list.
    unsafe {
        let threads = all(py);
        for thread in threads.iter().flat_map(Owned::items) {
            if py.PyList_Append(list, thread.as_ptr()) != 0 {
                py.PyErr_Clear();
            }
        }
        py.new_none()
    }
}

impl JoinedByExit {
    /// Makes `threading` note the threads when the exit begins. Returns `None` if there is no memory, with an
    /// exception set.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn watch(py: &'static Api) -> Option<JoinedByExit> {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let threads = Owned::new(py, py.PyList_New(0))?;
            let note = NOTE_THREADS.function(py, &threads)?;
            let register = loaded_module(py, THREADING)
                .and_then(|threading| threading.attribute(c"_register_atexit"));
            if register.is_some_and(|register| register.call(Some(&note)).is_none()) {
                // The exit has begun already. `late_thread` makes up for that.
                py.PyErr_Clear();
            }
            Some(JoinedByExit { threads })
        }
    }

    /// Returns the threads as an object that can be kept. `from_object` makes the value from that object again.
    pub(crate) fn as_object(&self) -> &Owned {
        &self.threads
    }

    pub(crate) fn from_object(threads: Owned) -> JoinedByExit {
        JoinedByExit { threads }
    }

    /// Returns a thread that is to be joined, that came after the noted threads, and that is not over. If no threads
    /// were noted, because `threading` was loaded late, the first call of this function notes those that exist then.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn late_thread(&self, py: &'static Api) -> Result<Option<Owned>, NotTold> {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let Some(threading) = loaded_module(py, THREADING) else { return Ok(None) };
            let main = threading.attribute(c"_main_thread").ok_or(NotTold)?;
            if py.PyList_Size(self.threads.as_ptr()) == 0 {
                Owned::new(py, note_threads(self.threads.as_ptr(), null_mut()));
            }
            let all = all(py).ok_or(NotTold)?;
            let late = all
                .items()
                .find(|thread| !self.knows(thread) && is_awaited(&threading, &main, thread));
            Ok(late)
        }
    }

    fn knows(&self, thread: &Owned) -> bool {
        self.threads.items().any(|known| known.as_ptr() == thread.as_ptr())
    }

    /// Returns whether a late thread, as in `late_thread`, is ending, at a point where `threading` does not list it
    /// any more. From 3.13 on this function waits for the thread.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn is_one_ending(&self, py: &'static Api) -> Result<bool, NotTold> {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let Some(threading) = loaded_module(py, THREADING) else { return Ok(false) };
            let main = threading.attribute(c"_main_thread").ok_or(NotTold)?;
            if py.version >= 0x030d {
                self.join_those_ending(&threading, &main)
            } else {
                self.is_one_locked(&threading, &main)
            }
        }
    }

    /// Joins the threads that are ending. Returns `true` if a thread that is not ending came meanwhile. A Ctrl-C
    /// leaves the threads behind, as in the exit of `threading` itself.
    ///
    /// # Safety
    /// The calling thread is attached.
    unsafe fn join_those_ending(&self, threading: &Owned, main: &Owned) -> Result<bool, NotTold> {
        let py = threading.py;
        // SAFETY: attached, by this function's contract.
        unsafe {
            let join = loaded_module(py, c"_thread").and_then(|it| it.attribute(c"_shutdown"));
            let join = join.ok_or(NotTold)?;
            // `join` joins all threads that there are. So there must be no others: as long as one of them runs,
            // nobody would look after the wait. From here to the call of `join`, no Python code runs that could start
            // one.
            for dict in [c"_active", c"_limbo"] {
                let dict = threading.attribute(dict).ok_or(NotTold)?;
                let threads = Owned::new(py, py.PyDict_Values(dict.as_ptr()));
                let threads = or_cleared(py, threads).ok_or(NotTold)?;
                if threads
                    .items()
                    .any(|thread| !self.knows(&thread) && is_awaited(threading, main, &thread))
                {
                    return Ok(true);
                }
            }
            // There must also be none of those that were left behind.
            if self.threads.items().any(|known| is_awaited(threading, main, &known)) {
                return Ok(false);
            }
            or_cleared(py, join.call(None)).ok_or(NotTold)?;
            Ok(false)
        }
    }

    /// Returns whether a late thread is ending, by the locks that [`is_over`] knows.
    ///
    /// # Safety
    /// The calling thread is attached.
    unsafe fn is_one_locked(&self, threading: &Owned, main: &Owned) -> Result<bool, NotTold> {
        let py = threading.py;
        // The locks of all threads that an exit joins.
        let locks = threading.attribute(c"_shutdown_locks").ok_or(NotTold)?;
        // SAFETY: attached, by this function's contract.
        let (locks, listed) = unsafe {
            let locks = Owned::new(py, py.PySequence_List(locks.as_ptr()));
            (or_cleared(py, locks).ok_or(NotTold)?, all(py).ok_or(NotTold)?)
        };
        let is_of = |lock: &Owned, thread: &Owned| {
            thread.attribute(c"_tstate_lock").is_some_and(|its| its.as_ptr() == lock.as_ptr())
        };
        // SAFETY: attached, by this function's contract.
        let here = |thread: &Owned| unsafe { !is_elsewhere(py, thread) };
        let is_late = |lock: &Owned| {
            !self.threads.items().any(|known| is_of(lock, &known))
                && !is_of(lock, main)
                && !listed.items().any(|thread| is_of(lock, &thread) && here(&thread))
        };
        let ending =
            locks.items().any(|lock| is_late(&lock) && answers(&lock, c"locked") == Some(true));
        Ok(ending)
    }
}

/// Clears the exception if there is no `result`.
///
/// # Safety
/// The calling thread is attached.
unsafe fn or_cleared(py: &Api, result: Option<Owned>) -> Option<Owned> {
    if result.is_none() {
        // SAFETY: attached, by this function's contract.
        unsafe { py.PyErr_Clear() };
    }
    result
}

/// `threading` could not be asked, because there is no memory.
pub(crate) struct NotTold;

/// Returns whether an exit has to wait for this thread.
fn is_awaited(threading: &Owned, main: &Owned, thread: &Owned) -> bool {
    thread.as_ptr() != main.as_ptr()
        && is_to_be_joined(threading, thread)
        // SAFETY: the thread is attached while an `Owned` lives.
        && unsafe { is_elsewhere(thread.py, thread) }
        && is_over(thread) != Some(true)
}

/// Returns whether the thread is non-daemon and `threading` started it.
fn is_to_be_joined(threading: &Owned, thread: &Owned) -> bool {
    !is_dummy(threading, thread) && is_daemon_thread(thread) != Some(true)
}

/// Returns whether the object stands for a thread that `threading` did not start. Where daemon threads are not
/// allowed, it counts as non-daemon, but nothing tells when that thread ends.
fn is_dummy(threading: &Owned, thread: &Owned) -> bool {
    let class = thread.attribute(c"__class__");
    class.is_some_and(|class| {
        threading.attribute(c"_DummyThread").is_some_and(|dummy| dummy.as_ptr() == class.as_ptr())
    })
}

/// Returns whether the thread is another thread of the system than the calling one. A replacement of `threading` may
/// run several threads by turns in one thread of the system, as gevent does. A wait for one that the calling thread
/// runs would never end. A thread that is about to start has no numbers yet.
///
/// # Safety
/// The calling thread is attached.
unsafe fn is_elsewhere(py: &'static Api, thread: &Owned) -> bool {
    // SAFETY: attached, by this function's contract.
    let is = |number: &CStr, own: c_ulong| unsafe {
        let number = thread.attribute(number).map(|it| py.PyLong_AsUnsignedLong(it.as_ptr()));
        let is_number = py.PyErr_Occurred().is_null();
        py.PyErr_Clear();
        is_number && number == Some(own)
    };
    // SAFETY: both functions take nothing. In a child of a fork only the first number is right. For gevent's threads
    // only the second one is right.
    let (ident, id) =
        unsafe { (py.PyThread_get_thread_ident(), py.PyThread_get_thread_native_id()) };
    !is(c"_ident", ident) && !is(c"_native_id", id)
}

/// Returns whether a thread has come to its end, and its thread state with it. Returns `None` if it cannot be asked,
/// because there is no memory.
///
/// The exit asks again and again, because joining gets in the way of others. Up to 3.12 two threads that join the
/// same thread at the same time can make each other fail. And a thread that is about to start cannot be joined.
pub(crate) fn is_over(thread: &Owned) -> Option<bool> {
    let py = thread.py;
    if py.version >= 0x030d {
        // The attribute was renamed in 3.14.
        let handle =
            thread.attribute(c"_os_thread_handle").or_else(|| thread.attribute(c"_handle"));
        return answers(&handle?, c"is_done");
    }
    if !answers(&thread.attribute(c"_started")?, c"is_set")? {
        return Some(false);
    }
    // This is a lock. The thread has it from before it says that it is started until its thread state is gone. After
    // that, other code may have replaced the lock by `None`.
    let lock = thread.attribute(c"_tstate_lock")?;
    if py.is_none(lock.as_ptr()) {
        return Some(true);
    }
    answers(&lock, c"locked").map(|locked| !locked)
}

/// Returns what a method without arguments says. Returns `None` if it failed.
fn answers(object: &Owned, method: &CStr) -> Option<bool> {
    let answer = object.attribute(method)?.call(None);
    // SAFETY: the thread is attached while an `Owned` lives.
    Some(unsafe { or_cleared(object.py, answer) }?.is_true())
}

/// Returns the threads that `threading` knows, in a list. Returns `None` if that failed.
///
/// # Safety
/// The calling thread is attached.
unsafe fn all(py: &'static Api) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe { or_cleared(py, loaded_module(py, THREADING)?.attribute(c"enumerate")?.call(None)) }
}
