//! The draft API of May 2025: strong and weak references, and which thread states are daemon ones.
//!
//! No interpreter has it, so this library serves it on every version.

use core::ffi::c_int;

use super::ensure::{ensure_holding, ensure_ref};
use super::handle::{already_closed, decode, encode, Kind};
use super::quick;
use super::shared::{close_strong, close_weak, guard_current, open_or_fatal, view_current};
use crate::attach::release;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::{main, LOBBY};
use crate::interpreter::by_address::{by_address, Stays};
use crate::interpreter::daemon;
use crate::python::{self, PyInterpreterState};
use crate::start;
use crate::thread::attached::{attached, attached_or_fatal};
use crate::thread::thread::Thread;
use crate::trace::note::hold_of;

/// Behind a PyInterpreterRef; never complete.
pub struct Pep788_StrongRef {
    _opaque: [u8; 0],
}

/// Behind a PyInterpreterWeakRef; never complete.
pub struct Pep788_WeakRef {
    _opaque: [u8; 0],
}

/// A strong reference keeps its interpreter from finalizing until it is closed. Exactly the size
/// of a pointer, and may be cast to and from `void *`. Zero is no reference.
pub type PyInterpreterRef = *mut Pep788_StrongRef;

/// A weak reference names an interpreter without keeping it from finalizing. Exactly the size of
/// a pointer, and may be cast to and from `void *`. Zero is no reference.
pub type PyInterpreterWeakRef = *mut Pep788_WeakRef;

/// A strong reference to the current interpreter.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns a reference, to be closed with PyInterpreterRef_Close() once, by any thread.
///
/// Fails with zero and an exception: PythonFinalizationError (RuntimeError before 3.13) once the
/// interpreter gives no more references (to threads inside an Ensure, as long as it waits),
/// MemoryError when out of memory, and at the first use what an import hook or audit hook raised that
/// refuses to import atexit.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterRef_Get() -> PyInterpreterRef {
    if let Some(reference) = quick::guard_current(Kind::StrongRef) {
        return reference as PyInterpreterRef;
    }
    const NAME: &str = "PyInterpreterRef_Get";
    let py = start::api(NAME);
    let state = attached_or_fatal(py, NAME);
    // SAFETY: `state` is attached.
    unsafe { guard_current(py, state, Kind::StrongRef) as PyInterpreterRef }
}

/// A strong reference to the main interpreter.
///
/// Caller: any thread, attached or not.
///
/// Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the main
/// interpreter is not there, or finalizing; or this is the first use of the library in it, from a
/// thread that is not attached, and CPython's queue of pending calls is full.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterRef_Main(r#ref: *mut PyInterpreterRef) -> c_int {
    const NAME: &str = "PyInterpreterRef_Main";
    start::api(NAME);
    // SAFETY: the caller promises that `ref` is a place for a reference.
    unsafe { strengthen(NAME, Some(main()), r#ref) }
}

/// A strong reference to the interpreter at an address.
///
/// Caller: any thread, attached or not. The address may be of an interpreter that is gone, or of
/// anything. Known are the main interpreter, the attached one, those in which this library was used before, and, up to 3.11, to
/// an attached thread, one whose only thread state that thread made.
///
/// Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the interpreter is
/// done waiting for references, or not known.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterState_AsStrong(
    interp: *mut PyInterpreterState,
    r#ref: *mut PyInterpreterRef,
) -> c_int {
    const NAME: &str = "PyInterpreterState_AsStrong";
    let py = start::api(NAME);
    let record = by_address(py, interp, attached(py), Stays::Unknown);
    // SAFETY: the caller promises that `ref` is a place for a reference.
    unsafe {
        let done = strengthen(NAME, record, r#ref);
        if done == 0 && record.is_some_and(|record| !record.confirm(interp.cast(), &LOBBY)) {
            // The interpreter is gone meanwhile, and the record is another one's.
            r#ref.write(core::ptr::null_mut());
            return result(false);
        }
        done
    }
}

/// The interpreter of a strong reference. It stays there at least until the reference is closed.
///
/// Caller: any thread, attached or not. Cannot fail; but in a forked child, a reference of the parent
/// does not keep the interpreter, and NULL is returned when it is gone.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterRef_AsInterpreter(
    r#ref: PyInterpreterRef,
) -> *mut PyInterpreterState {
    const NAME: &str = "PyInterpreterRef_AsInterpreter";
    start::api(NAME);
    let reference = decode(NAME, r#ref as usize, Kind::StrongRef);
    if !reference.inherited {
        open_or_fatal(NAME, &reference, Kind::StrongRef);
    }
    if reference.gone {
        return core::ptr::null_mut();
    }
    reference.record.interpreter()
}

/// Another strong reference to the same interpreter, to be closed on its own.
///
/// Caller: any thread, attached or not. Cannot fail.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterRef_Dup(r#ref: PyInterpreterRef) -> PyInterpreterRef {
    const NAME: &str = "PyInterpreterRef_Dup";
    start::api(NAME);
    let reference = decode(NAME, r#ref as usize, Kind::StrongRef);
    if reference.inherited {
        // The reference is of a parent process. It holds nothing here, and neither does another one like it.
        return r#ref;
    }
    open_or_fatal(NAME, &reference, Kind::StrongRef);
    // A holder is not refused: the gate is not closed while the caller's reference is out.
    let _ = reference.record.gate.enter(Claim::Holder, &LOBBY);
    encode(reference.record, Kind::StrongRef) as PyInterpreterRef
}

/// Closes a strong reference. When the last one of an interpreter is closed, it may finalize.
///
/// Caller: any thread, attached or not. Cannot fail. Closing more references than were taken is a
/// fatal error. In a forked child, closing a reference of the parent does nothing.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterRef_Close(r#ref: PyInterpreterRef) {
    if quick::close(r#ref as usize, Kind::StrongRef) {
        return;
    }
    const NAME: &str = "PyInterpreterRef_Close";
    start::api(NAME);
    close_strong(NAME, r#ref as usize, Kind::StrongRef);
}

/// A weak reference to the current interpreter.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns a reference, to be closed with PyInterpreterWeakRef_Close() once, by any thread, at any
/// time. Fails with zero and MemoryError, or, at the first use, what an import hook or audit hook raised
/// that refuses to import atexit.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterWeakRef_Get() -> PyInterpreterWeakRef {
    const NAME: &str = "PyInterpreterWeakRef_Get";
    let py = start::api(NAME);
    let state = attached_or_fatal(py, NAME);
    // SAFETY: `state` is attached.
    unsafe { view_current(py, state, Kind::WeakRef) as PyInterpreterWeakRef }
}

/// Another weak reference to the same interpreter, to be closed on its own.
///
/// Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterWeakRef_Dup(
    wref: PyInterpreterWeakRef,
) -> PyInterpreterWeakRef {
    const NAME: &str = "PyInterpreterWeakRef_Dup";
    start::api(NAME);
    decode(NAME, wref as usize, Kind::WeakRef).record.add_view();
    wref
}

/// Promotes a weak reference to a strong one. The weak one stays valid, and stays the caller's.
///
/// Caller: any thread, attached or not, also after the interpreter is gone; not from a signal
/// handler that may have interrupted this library.
///
/// Returns 0 and sets `*ref`. Fails with -1, no exception, and zero in `*ref`: the interpreter is
/// gone, or it is finalizing and PEP788_DRAIN_GRACE_MS (milliseconds) have passed.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterWeakRef_AsStrong(
    wref: PyInterpreterWeakRef,
    r#ref: *mut PyInterpreterRef,
) -> c_int {
    if !r#ref.is_null() {
        if let Some(reference) = quick::guard_named(wref as usize, Kind::WeakRef, Kind::StrongRef) {
            // SAFETY: `ref` is not NULL, and the caller promises that it is a place for a reference.
            unsafe { r#ref.write(reference as PyInterpreterRef) };
            return result(true);
        }
    }
    const NAME: &str = "PyInterpreterWeakRef_AsStrong";
    start::api(NAME);
    let record = decode(NAME, wref as usize, Kind::WeakRef).record;
    // SAFETY: the caller promises that `ref` is a place for a reference.
    unsafe { strengthen(NAME, Some(record), r#ref) }
}

/// Closes a weak reference.
///
/// Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterWeakRef_Close(wref: PyInterpreterWeakRef) {
    const NAME: &str = "PyInterpreterWeakRef_Close";
    start::api(NAME);
    close_weak(NAME, wref as usize, Kind::WeakRef);
}

/// Attaches the calling thread to the interpreter of a strong reference. It takes a reference of its own, which
/// the Release drops. The caller's reference stays the caller's.
///
/// Caller: any thread, attached or not. One PyThreadState_Release() in the same thread undoes each success, the
/// latest first.
///
/// Which thread state is attached then:
/// 1. The attached one, if it is of that interpreter.
/// 2. Else, with nothing attached, the one that this thread used last (PyGILState_GetThisThreadState()), if it is
///    of that interpreter.
/// 3. Else a new one, which the Release deletes.
///
/// Returns 0. Fails with -1 and no exception: the interpreter waits for references no more, or out of memory.
/// Then what was attached before is attached again.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_Ensure(r#ref: PyInterpreterRef) -> c_int {
    const NAME: &str = "PyThreadState_Ensure";
    let py = start::api(NAME);
    result(ensure_ref(py, NAME, r#ref as usize))
}

/// Like PyThreadState_Ensure() of the draft, but the caller's reference is consumed, whether the
/// call succeeds or fails. For code written for the revision in which Ensure steals.
///
/// Caller, result: as for PyThreadState_Ensure(). The reference must not be closed.
///
/// Contract: this library's own.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_EnsureStealing(r#ref: PyInterpreterRef) -> c_int {
    const NAME: &str = "Pep788_EnsureStealing";
    let py = start::api(NAME);
    let reference = decode(NAME, r#ref as usize, Kind::StrongRef);
    if reference.inherited {
        // The reference is of a parent process. There is nothing to consume here.
        return result(ensure_ref(py, NAME, r#ref as usize));
    }
    open_or_fatal(NAME, &reference, Kind::StrongRef);
    reference.retire(NAME, r#ref as usize, Kind::StrongRef);
    // A hold is given back on the gate.
    if reference.record.move_to_gate(reference.stripe, &LOBBY).is_err() {
        already_closed(NAME, Kind::StrongRef, "");
    }
    let hold = hold_of(reference.record);
    let Some(thread) = Thread::this() else {
        let _ = hold.give_back();
        return result(false);
    };
    result(ensure_holding(py, thread, reference.record, hold))
}

/// Undoes this thread's most recent Ensure: exactly what was attached before it is attached again.
///
/// Caller: must have attached what the Ensure attached. Cannot fail. One release too many is a
/// fatal error.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_Release() {
    const NAME: &str = "PyThreadState_Release";
    let py = start::api(NAME);
    release::release(py, NAME, 0);
}

/// Like Pep788_Ensure(), under the draft's own name.
#[cfg(not(pep788_draft_twins))]
#[cfg(cbindgen)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Ensure(r#ref: PyInterpreterRef) -> c_int {}

/// Like Pep788_Release(), under the draft's own name.
#[cfg(not(pep788_draft_twins))]
#[cfg(cbindgen)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Release() {}

/// Makes the attached thread state daemon (`is_daemon` not 0) or non-daemon (0).
///
/// A non-daemon thread state holds a strong reference to its interpreter, until it is cleared or
/// deleted by any means, or, inside an Ensure, until the Release, which restores what was before.
/// A daemon one holds none: the interpreter may finalize under the thread.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns 0. Fails with -1 and no exception: in the interpreter's main thread; daemon, in a
/// non-daemon threading.Thread, which the exit joins in any case; non-daemon, once references are
/// no longer given, or out of memory.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_SetDaemon(is_daemon: c_int) -> c_int {
    const NAME: &str = "PyThreadState_SetDaemon";
    let py = start::api(NAME);
    let state = attached_or_fatal(py, NAME);
    // SAFETY: `state` is attached.
    result(unsafe { daemon::set(py, state, is_daemon != 0) })
}

/// Whether the attached thread state is a daemon one.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns 0 inside an Ensure that holds the interpreter (any of the draft, and this library's
/// PyThreadState_EnsureFromView), after PyThreadState_SetDaemon(0), in the main thread and in a
/// non-daemon threading.Thread; 1 in a daemon threading.Thread and in any other thread.
///
/// Contract: PEP 788, draft of May 2025.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_GetDaemon() -> c_int {
    const NAME: &str = "PyThreadState_GetDaemon";
    let py = start::api(NAME);
    let state = attached_or_fatal(py, NAME);
    // SAFETY: `state` is attached.
    c_int::from(unsafe { daemon::get(py, state) })
}

fn result(done: bool) -> c_int {
    if done {
        0
    } else {
        -1
    }
}

/// # Safety
/// `place` is NULL, which is reported, or a place for a reference.
unsafe fn strengthen(
    function: &str,
    record: Option<&'static Record>,
    place: *mut PyInterpreterRef,
) -> c_int {
    if place.is_null() {
        python::fatal(function, "the place for the PyInterpreterRef is NULL");
    }
    let py = start::api(function);
    let promoted = record.filter(|record| record.promote(py).is_ok());
    let reference = promoted.map_or(0, |record| encode(record, Kind::StrongRef));
    // SAFETY: `place` is not NULL, so it is a place for a reference, by this function's contract.
    unsafe { place.write(reference as PyInterpreterRef) };
    result(promoted.is_some())
}
