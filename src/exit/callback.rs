//! The exit callback: installing it, keeping it installed, and the wait itself.
//!
//! The callback lives in the interpreter's own `atexit`, which is the last thing that
//! finalization runs while threads can still attach, on every version, for the main
//! interpreter (`Py_FinalizeEx`) and for subinterpreters (`Py_EndInterpreter`).
//!
//! The wait itself comes later: after the exit callbacks of the program that are older than ours.
//! `atexit` gives its list up when all callbacks have run, still before finalization is marked. So
//! our callback registers one more, the *last*, which is there only to be given up: the destructor
//! of its capsule waits.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use super::wait::wait_for_guards;
use crate::gate::record::Record;
use crate::gate::registry::registry;
use crate::python::atexit;
use crate::python::threading::{self, JoinedByExit};
use crate::python::{self, tuple, Api, CapsuleDestructor, MethodDef, Owned, PyObject};

const CAPSULE: &CStr = c"pep788.exit_callback";
const LAST_CAPSULE: &CStr = c"pep788.last_exit_callback";

static EXIT_CALLBACK: MethodDef = MethodDef::no_arguments(
    c"pep788_exit_begins",
    exit_callback,
    c"Has the interpreter wait for all PEP 788 guards before it finalizes.",
);

static LAST_CALLBACK: MethodDef = MethodDef::no_arguments(
    c"pep788_wait_for_guards",
    last_callback,
    c"Lets the interpreter finalize when all PEP 788 guards are closed.",
);

/// Registers the exit callback with `atexit.register`. `dropped` is to call [`given_up`]. `false`: failed, with an
/// exception set.
///
/// # Safety
/// The calling thread is attached to the record's interpreter.
pub(crate) unsafe fn install(
    py: &'static Api,
    record: &'static Record,
    register: &Owned,
    dropped: CapsuleDestructor,
) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        // `threading` keeps the list of threads too. The capsule is only in the callback, so that
        // it goes when `atexit` drops that.
        JoinedByExit::watch(py).is_some_and(|joined| {
            let joined = joined.as_object();
            register_in(py, record, register, &EXIT_CALLBACK, (CAPSULE, dropped), joined)
        })
    }
}

/// Registers a callback whose `self` is a tuple: a capsule, with its name and destructor, that
/// knows the record; and `joined`, which the capsule has a reference to as well, as its context.
/// `false`: failed, with an exception set.
///
/// # Safety
/// The calling thread is attached to the record's interpreter.
unsafe fn register_in(
    py: &'static Api,
    record: &'static Record,
    register: &Owned,
    callback: &'static MethodDef,
    (name, destructor): (&CStr, CapsuleDestructor),
    joined: &Owned,
) -> bool {
    // SAFETY: attached, says the caller; the names and method definitions are never freed.
    unsafe {
        let capsule = py.PyCapsule_New(record.ticket(), name.as_ptr(), None);
        let Some(capsule) = Owned::new(py, capsule) else {
            return false;
        };
        let registered = tuple(py, &[&capsule, joined])
            .and_then(|this| callback.function(py, &this))
            .is_some_and(|callback| register.call(Some(&callback)).is_some());
        if registered {
            // Only now, so that a failure leaves nothing behind; and in time, as this thread has a
            // reference to the capsule yet. Release: pairs with the look at the count before a
            // guard is given.
            record.callbacks.fetch_add(1, Ordering::Release);
            if py.PyCapsule_SetContext(capsule.as_ptr(), joined.as_ptr().cast()) == 0 {
                py.Py_IncRef(joined.as_ptr());
            }
            py.PyCapsule_SetDestructor(capsule.as_ptr(), Some(destructor));
        }
        registered
    }
}

/// Called by `atexit`, with the tuple made by `install`.
unsafe extern "C" fn exit_callback(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let py = python::get_or_fatal("pep788_exit_begins");
    // SAFETY: CPython calls this attached; the items are borrowed from the tuple.
    unsafe {
        let capsule = py.PyTuple_GetItem(this, 0);
        let threads = Owned::of_borrowed(py, py.PyTuple_GetItem(this, 1));
        let ticket = py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr());
        if let (Some(record), Some(threads)) = (Record::of_ticket(ticket), threads) {
            if is_finalizing(py, record) && !is_put_off(py, record, &threads) {
                wait_for_guards(py, record, Some(JoinedByExit::from_object(threads)));
            }
        }
        py.new_none()
    }
}

/// Has the wait come after the exit callbacks that are yet to be called. `false`: it cannot be had,
/// for want of memory, or as `atexit.register` is not CPython's own any more and might keep what is
/// registered.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_put_off(py: &'static Api, record: &'static Record, joined: &Owned) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        let _exception = python::KeepException::new(py);
        let last = (LAST_CAPSULE, all_have_run as CapsuleDestructor);
        let registered = atexit::own_register(py).is_some_and(|register| {
            register_in(py, record, &register, &LAST_CALLBACK, last, joined)
        });
        py.PyErr_Clear();
        registered
    }
}

/// It is there to be given up, and has nothing to do. CPython calls nothing that is registered while
/// exit callbacks run; somebody who runs them by hand may.
unsafe extern "C" fn last_callback(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls this attached.
    unsafe { python::get_or_fatal("pep788_wait_for_guards").new_none() }
}

/// The record that a callback in a list of `atexit` is for, if that is still in the same life.
///
/// # Safety
/// `capsule` was made by `register_in`, with this name.
unsafe fn record_of(
    py: &'static Api,
    capsule: *mut PyObject,
    name: &CStr,
) -> Option<&'static Record> {
    // SAFETY: says the caller; and that is a ticket.
    unsafe { Record::of_ticket(py.PyCapsule_GetPointer(capsule, name.as_ptr())) }
}

/// One callback less in a list of `atexit`. Gives whether its record has no other.
///
/// # Safety
/// As for `record_of`.
unsafe fn one_less(py: &'static Api, capsule: *mut PyObject, name: &CStr) -> bool {
    // Locked before the look at the ticket: only so the record stays in that life.
    let _registry = registry();
    // SAFETY: the capsule is one of `install`'s, and attached, says the caller.
    let Some(record) = (unsafe { record_of(py, capsule, name) }) else { return false };
    let before = record.callbacks.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
        // Zero: the record's interpreter was given up before.
        count.checked_sub(1)
    });
    before == Ok(1)
}

/// `atexit` gave the last callback up: all callbacks have run.
unsafe extern "C" fn all_have_run(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this attached, with a capsule made by `register_in`.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let _exception = python::KeepException::new(py);
        if let Some(record) = record_of(py, capsule, LAST_CAPSULE) {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        // Not before: whoever comes meanwhile needs no other callback.
        one_less(py, capsule, LAST_CAPSULE);
    }
}

/// `atexit` gave the callback up: after it ran, or because somebody cleared or unregistered it. Gives whether the main
/// interpreter has none any more, and is to have one again.
///
/// # Safety
/// Called attached, with a capsule made by `install`.
pub(crate) unsafe fn given_up(py: &'static Api, capsule: *mut PyObject) -> bool {
    // SAFETY: attached, and the capsule is one of `install`'s, says the caller; that has such a context.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let Some(record) = record_of(py, capsule, CAPSULE) else { return false };
        let _exception = python::KeepException::new(py);
        // No Python code runs below: `atexit` tidies up at the very end, and the callback was registered too late to be
        // called. This is the last chance to wait.
        let is_last_chance = py.PyEval_GetFrame().is_null() && !is_run_by_a_host(py, record);
        // Acquire: pairs with the registration.
        let is_only_one = record.callbacks.load(Ordering::Acquire) == 1;
        if is_last_chance && is_only_one && !record.gate.is_closed() {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        let was_last = one_less(py, capsule, CAPSULE);
        // A subinterpreter's comes back with the next use that is attached to it.
        was_last && !is_last_chance && record.is_main() && !record.gate.is_closed()
    }
}

/// Whether the interpreter of `record` is being shut down, or somebody merely runs the exit callbacks
/// (`atexit._run_exitfuncs()`).
///
/// # Safety
/// The calling thread is attached to it.
unsafe fn is_finalizing(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, says the caller; the frame is borrowed.
    unsafe {
        if py.PyEval_GetFrame().is_null() {
            return !is_run_by_a_host(py, record);
        }
        // Python code below, but no `threading` to ask: either somebody calls `atexit` by
        // hand, or a program that runs Python code calls `Py_FinalizeEx`.
        threading::is_shutting_down(py).unwrap_or_else(|| !atexit::is_run_by_hand(py))
    }
}

/// With no Python code below: whether C code calls `atexit` in the middle of a run. Of a subinterpreter that is taken for
/// its end: hosts do so right before `Py_EndInterpreter` (mod_wsgi), and nothing would bring the callback back in time.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_run_by_a_host(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, says the caller.
    record.is_main() && unsafe { atexit::is_run_by_hand(py) }
}
