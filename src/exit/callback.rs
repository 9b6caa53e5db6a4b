//! The exit callback, by which an interpreter waits for guards before it finalizes.
//!
//! This file installs the callback, keeps it installed, and begins the wait. The callback is in the interpreter's own
//! `atexit`, whose callbacks are the last thing that finalization runs while threads can still attach. That is so on
//! every version, for the main interpreter (`Py_FinalizeEx`) and for subinterpreters (`Py_EndInterpreter`).
//!
//! The wait itself comes later: after the exit callbacks of the program that are older than the library's. `atexit`
//! drops its list when all callbacks have run, still before finalization is marked. So the exit callback registers
//! one more callback, the *last* one, which exists only to be dropped. The destructor of its capsule waits.

use core::ffi::CStr;
use core::sync::atomic::Ordering;

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

/// Registers the exit callback with `atexit.register`. `dropped` has to call [`given_up`]. Returns `false` if the
/// registration failed, with an exception set.
///
/// # Safety
/// The calling thread is attached to the record's interpreter.
pub(crate) unsafe fn install(
    py: &'static Api,
    record: &'static Record,
    register: &Owned,
    dropped: CapsuleDestructor,
) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        // `threading` keeps the list of threads too. Only the callback keeps the capsule, so the capsule is freed
        // when `atexit` drops the callback.
        JoinedByExit::watch(py).is_some_and(|joined| {
            let joined = joined.as_object();
            register_in(py, record, register, &EXIT_CALLBACK, (CAPSULE, dropped), joined)
        })
    }
}

/// Registers a callback whose `self` is a tuple. Its first item is a capsule, with this name and destructor, that
/// knows the record. Its second item is `joined`. The capsule has a reference to `joined` as well, as its context.
/// Returns `false` if the registration failed, with an exception set.
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
    // SAFETY: attached, by this function's contract. The names and method definitions are never freed.
    unsafe {
        let capsule = py.PyCapsule_New(record.ticket(), name.as_ptr(), None);
        let Some(capsule) = Owned::new(py, capsule) else {
            return false;
        };
        let registered = tuple(py, &[&capsule, joined])
            .and_then(|this| callback.function(py, &this))
            .is_some_and(|callback| register.call(Some(&callback)).is_some());
        if registered {
            // The callback is counted only now, so that a failure leaves nothing behind. This is early enough,
            // because this thread still has a reference to the capsule.
            // Release: pairs with the `Acquire` look at the count before a guard is given.
            record.callbacks.fetch_add(1, Ordering::Release);
            if py.PyCapsule_SetContext(capsule.as_ptr(), joined.as_ptr().cast()) == 0 {
                py.Py_IncRef(joined.as_ptr());
            }
            py.PyCapsule_SetDestructor(capsule.as_ptr(), Some(destructor));
        }
        registered
    }
}

/// Begins the wait, or puts it off. `atexit` calls this with the tuple that `install` made.
unsafe extern "C" fn exit_callback(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let py = python::get_or_fatal("pep788_exit_begins");
    // SAFETY: CPython calls this function in an attached thread. The items are borrowed from the tuple.
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

/// Puts the wait off until after the exit callbacks that are yet to be called. Returns `false` if that is impossible:
/// there is no memory, or `atexit.register` is not CPython's own any more and might keep what is registered.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_put_off(py: &'static Api, record: &'static Record, joined: &Owned) -> bool {
    // SAFETY: attached, by this function's contract.
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

/// Does nothing: the last callback exists only to be dropped. CPython does not call a callback that is registered
/// while exit callbacks run, but somebody who runs them by hand may call it.
unsafe extern "C" fn last_callback(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls this function in an attached thread.
    unsafe { python::get_or_fatal("pep788_wait_for_guards").new_none() }
}

/// Returns the record that a callback in a list of `atexit` is for, if the record is still in the same life.
///
/// # Safety
/// The calling thread is attached. `capsule` was made by `register_in`, with this name.
unsafe fn record_of(
    py: &'static Api,
    capsule: *mut PyObject,
    name: &CStr,
) -> Option<&'static Record> {
    // SAFETY: `register_in` made the capsule, by this function's contract, so its pointer is a ticket.
    unsafe { Record::of_ticket(py.PyCapsule_GetPointer(capsule, name.as_ptr())) }
}

/// Counts that a list of `atexit` has one callback less. Returns whether the record of that callback has no other
/// callback.
///
/// # Safety
/// As for `record_of`.
unsafe fn one_less(py: &'static Api, capsule: *mut PyObject, name: &CStr) -> bool {
    // The lock is taken before the look at the ticket, because the record stays in that life only under the lock.
    let _registry = registry();
    // SAFETY: the caller promises that the thread is attached, and that `register_in` made the capsule.
    let Some(record) = (unsafe { record_of(py, capsule, name) }) else { return false };
    // AcqRel: pairs with the registration in `register_in`, and with the looks at the count.
    let before = record.callbacks.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
        // The count is zero if the record's interpreter was given up before.
        count.checked_sub(1)
    });
    before == Ok(1)
}

/// Waits for guards: all callbacks have run, because `atexit` dropped the last one.
unsafe extern "C" fn all_have_run(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this function in an attached thread, with a capsule that `register_in` made.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let _exception = python::KeepException::new(py);
        if let Some(record) = record_of(py, capsule, LAST_CAPSULE) {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        // This comes after the wait, because a thread that comes meanwhile needs no other callback.
        one_less(py, capsule, LAST_CAPSULE);
    }
}

/// Counts that `atexit` dropped the exit callback: after the callback ran, or because somebody cleared or
/// unregistered it. Waits for guards if this is the last chance. Returns whether the main interpreter has no exit
/// callback any more, and has to get one again.
///
/// # Safety
/// The calling thread is attached, and `install` made the capsule.
pub(crate) unsafe fn given_up(py: &'static Api, capsule: *mut PyObject) -> bool {
    // SAFETY: attached, and the capsule is one of `install`'s, by this function's contract. The context of such a
    // capsule is `joined`.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let Some(record) = record_of(py, capsule, CAPSULE) else { return false };
        let _exception = python::KeepException::new(py);
        // No Python code runs below. So `atexit` is cleared at the very end, and the callback was registered too late
        // to be called. This is the last chance to wait.
        let is_last_chance = py.PyEval_GetFrame().is_null() && !is_run_by_a_host(py, record);
        // Acquire: pairs with the `Release` of the registration.
        let is_only_one = record.callbacks.load(Ordering::Acquire) == 1;
        if is_last_chance && is_only_one && !record.gate.is_closed() {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        let was_last = one_less(py, capsule, CAPSULE);
        // A subinterpreter gets its callback again at the next use from a thread that is attached to it.
        was_last && !is_last_chance && record.is_main() && !record.gate.is_closed()
    }
}

/// Returns whether the interpreter of `record` is being shut down. If it is not, somebody only runs the exit
/// callbacks (`atexit._run_exitfuncs()`).
///
/// # Safety
/// The calling thread is attached to that interpreter.
unsafe fn is_finalizing(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, by this function's contract. The frame is borrowed.
    unsafe {
        if py.PyEval_GetFrame().is_null() {
            return !is_run_by_a_host(py, record);
        }
        // Python code runs below. If `threading` cannot be asked, either somebody calls `atexit` by hand, or a
        // program that runs Python code calls `Py_FinalizeEx`.
        threading::is_shutting_down(py).unwrap_or_else(|| !atexit::is_run_by_hand(py))
    }
}

/// Returns whether C code calls `atexit` in the middle of a run. This is asked where no Python code runs below.
/// Returns `false` for a subinterpreter, where such a call is taken for the subinterpreter's end: hosts make the call
/// right before `Py_EndInterpreter` (mod_wsgi), and nothing would bring the callback back in time.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_run_by_a_host(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, by this function's contract.
    record.is_main() && unsafe { atexit::is_run_by_hand(py) }
}
