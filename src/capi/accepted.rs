//! The accepted API of PEP 788: guards and views.
//!
//! From CPython 3.15 on the interpreter has this API itself. Calls that reach this library are handed on to it.

use super::handle::{decode, encode, Kind};
use super::quick;
use super::shared::{close_strong, close_weak, guard_current, view_current};
use crate::gate::registry::main;
use crate::interpreter::first_use::prepare_main;
use crate::python::native;
use crate::start;
use crate::thread::attached::attached_or_fatal;

/// A guard keeps its interpreter from finalizing until the guard is closed. `Py_FinalizeEx`,
/// `Py_EndInterpreter` and the end of a script wait for it.
pub struct PyInterpreterGuard {
    _opaque: [u8; 0],
}

/// A view names an interpreter and does not keep it from finalizing. As long as it is safe, a thread can
/// take a guard by a view, or attach by it. After that both are refused.
pub struct PyInterpreterView {
    _opaque: [u8; 0],
}

/// What an Ensure returns and its Release takes.
pub type PyThreadStateToken = core::ffi::c_void;

/// Guards the current interpreter.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns a guard, to be closed with PyInterpreterGuard_Close() once, by any thread.
///
/// Fails with NULL and an exception:
/// - PythonFinalizationError (RuntimeError before 3.13): the interpreter is finalizing and gives no more
///   guards. Threads inside an Ensure get them as long as the exit waits.
/// - MemoryError: out of memory.
/// - At the first use, the exception of an import hook or audit hook that refuses to import atexit.
///
/// Contract: PEP 788, PyInterpreterGuard_FromCurrent.
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterGuard_FromCurrent() -> *mut PyInterpreterGuard {
    // SAFETY: this function and the called one have the same contract.
    unsafe { guard_from_current() }
}

#[inline]
pub(crate) unsafe fn guard_from_current() -> *mut PyInterpreterGuard {
    match quick::guard_current(Kind::Guard) {
        Some(guard) => guard as *mut PyInterpreterGuard,
        // SAFETY: this function and the called one have the same contract.
        None => unsafe { guard_from_current_slowly() },
    }
}

#[inline(never)]
unsafe fn guard_from_current_slowly() -> *mut PyInterpreterGuard {
    const NAME: &str = "PyInterpreterGuard_FromCurrent";
    let py = start::api(NAME);
    // This check comes first, because the interpreter's own function does not make it.
    let state = attached_or_fatal(py, NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract, and the thread is attached.
        return unsafe { (native.PyInterpreterGuard_FromCurrent)() } as *mut PyInterpreterGuard;
    }
    // SAFETY: `state` is attached.
    unsafe { guard_current(py, state, Kind::Guard) as *mut PyInterpreterGuard }
}

/// Guards the interpreter that a view names. The view stays valid, and stays the caller's.
///
/// Caller: any thread, attached or not, also after the interpreter is gone.
///
/// Returns a guard, to be closed with PyInterpreterGuard_Close() once, by any thread.
///
/// Fails with NULL and no exception: the interpreter is gone, or it is finalizing and
/// PEP788_DRAIN_GRACE_MS (milliseconds) have passed, or out of memory.
///
/// Contract: PEP 788, PyInterpreterGuard_FromView.
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterGuard_FromView(
    view: *mut PyInterpreterView,
) -> *mut PyInterpreterGuard {
    // SAFETY: this function and the called one have the same contract.
    unsafe { guard_from_view(view) }
}

#[inline]
pub(crate) unsafe fn guard_from_view(view: *mut PyInterpreterView) -> *mut PyInterpreterGuard {
    match quick::guard_named(view as usize, Kind::View, Kind::Guard) {
        Some(guard) => guard as *mut PyInterpreterGuard,
        // SAFETY: this function and the called one have the same contract.
        None => unsafe { guard_from_view_slowly(view) },
    }
}

#[inline(never)]
unsafe fn guard_from_view_slowly(view: *mut PyInterpreterView) -> *mut PyInterpreterGuard {
    const NAME: &str = "PyInterpreterGuard_FromView";
    let py = start::api(NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract.
        let guard = unsafe { (native.PyInterpreterGuard_FromView)(view as usize) };
        return guard as *mut PyInterpreterGuard;
    }
    let view = decode(NAME, view as usize, Kind::View);
    match view.record.promote(py) {
        Ok(()) => encode(view.record, Kind::Guard) as *mut PyInterpreterGuard,
        Err(_) => core::ptr::null_mut(),
    }
}

/// Closes a guard. When the last guard of an interpreter is closed, the interpreter may finalize. A thread
/// that is still attached to it is then a daemon thread.
///
/// Caller: any thread, attached or not. Cannot fail. Closing more guards than were taken is a
/// fatal error. In a forked child, closing a guard of the parent does nothing.
///
/// Contract: PEP 788, PyInterpreterGuard_Close.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterGuard_Close(guard: *mut PyInterpreterGuard) {
    // SAFETY: this function and the called one have the same contract.
    unsafe { guard_close(guard) }
}

#[inline]
pub(crate) unsafe fn guard_close(guard: *mut PyInterpreterGuard) {
    if !quick::close(guard as usize, Kind::Guard) {
        // SAFETY: this function and the called one have the same contract.
        unsafe { guard_close_slowly(guard) }
    }
}

#[inline(never)]
unsafe fn guard_close_slowly(guard: *mut PyInterpreterGuard) {
    const NAME: &str = "PyInterpreterGuard_Close";
    let py = start::api(NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract.
        return unsafe { (native.PyInterpreterGuard_Close)(guard as usize) };
    }
    close_strong(NAME, guard as usize, Kind::Guard);
}

/// A view of the current interpreter.
///
/// Caller: must have an attached thread state; a fatal error otherwise.
///
/// Returns a view, to be closed with PyInterpreterView_Close() once, by any thread, at any time.
///
/// Fails with NULL and an exception:
/// - MemoryError: out of memory.
/// - At the first use, the exception of an import hook or audit hook that refuses to import atexit.
///
/// Contract: PEP 788, PyInterpreterView_FromCurrent.
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterView_FromCurrent() -> *mut PyInterpreterView {
    // SAFETY: this function and the called one have the same contract.
    unsafe { view_from_current() }
}

#[inline]
pub(crate) unsafe fn view_from_current() -> *mut PyInterpreterView {
    const NAME: &str = "PyInterpreterView_FromCurrent";
    let py = start::api(NAME);
    // This check comes first, because the interpreter's own function does not make it.
    let state = attached_or_fatal(py, NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract, and the thread is attached.
        return unsafe { (native.PyInterpreterView_FromCurrent)() } as *mut PyInterpreterView;
    }
    // SAFETY: `state` is attached.
    unsafe { view_current(py, state, Kind::View) as *mut PyInterpreterView }
}

/// A view of the main interpreter. It is for callbacks that have no argument by which they could find their
/// interpreter. Code that uses it cannot work in subinterpreters.
///
/// Caller: any thread, attached or not, also before Py_Initialize(). The view names "main": after
/// Py_FinalizeEx() and another Py_Initialize() it can be used again.
///
/// Returns a view, to be closed with PyInterpreterView_Close() once. This library's function cannot fail.
/// The interpreter's own (3.15) returns NULL, without an exception, when out of memory.
///
/// Contract: PEP 788, PyInterpreterView_FromMain.
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterView_FromMain() -> *mut PyInterpreterView {
    // SAFETY: this function and the called one have the same contract.
    unsafe { view_from_main() }
}

#[inline]
pub(crate) unsafe fn view_from_main() -> *mut PyInterpreterView {
    const NAME: &str = "PyInterpreterView_FromMain";
    let py = start::api(NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract.
        return unsafe { (native.PyInterpreterView_FromMain)() } as *mut PyInterpreterView;
    }
    prepare_main(py);
    main().add_view();
    encode(main(), Kind::View) as *mut PyInterpreterView
}

/// Closes a view.
///
/// Caller: any thread, attached or not, also after the interpreter is gone. Cannot fail.
///
/// Contract: PEP 788, PyInterpreterView_Close.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyInterpreterView_Close(view: *mut PyInterpreterView) {
    // SAFETY: this function and the called one have the same contract.
    unsafe { view_close(view) }
}

#[inline]
pub(crate) unsafe fn view_close(view: *mut PyInterpreterView) {
    const NAME: &str = "PyInterpreterView_Close";
    let py = start::api(NAME);
    if let Some(native) = native(py) {
        // SAFETY: the interpreter's own function has the same contract.
        return unsafe { (native.PyInterpreterView_Close)(view as usize) };
    }
    close_weak(NAME, view as usize, Kind::View);
}

/// Attaches the calling thread to the interpreter of a guard.
///
/// Caller: any thread, attached or not. One PyThreadState_Release() in the same thread undoes each success, the
/// latest first. PyGILState_Ensure() inside reuses the attached thread state, and the other way round.
///
/// Which thread state is attached then:
/// 1. The attached one, if it is of that interpreter.
/// 2. Else, with nothing attached, the one that this thread used last (PyGILState_GetThisThreadState()), if it is
///    of that interpreter.
/// 3. Else a new one, which the Release deletes.
///
/// The guard stays the caller's, and must stay open until the Release. After it is closed, the
/// interpreter may finalize, and the thread is a daemon thread.
///
/// Returns a token for the Release. Fails with NULL and no exception: out of memory. Then what was attached
/// before is attached again. In a forked child, a guard of the parent is taken as a view.
///
/// Contract: PEP 788, PyThreadState_Ensure.
#[cfg(cbindgen)]
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Ensure(
    guard: *mut PyInterpreterGuard,
) -> *mut PyThreadStateToken {
}

/// Attaches the calling thread to the interpreter of a view, and guards it until the Release.
///
/// Caller: any thread, attached or not, also after the interpreter is gone. Otherwise like
/// PyThreadState_Ensure().
///
/// Returns a token for PyThreadState_Release(). Fails with NULL and no exception: the interpreter
/// is gone, or it is finalizing and PEP788_DRAIN_GRACE_MS (milliseconds) have passed, or out of memory.
///
/// Contract: PEP 788, PyThreadState_EnsureFromView.
#[cfg(cbindgen)]
#[must_use]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_EnsureFromView(
    view: *mut PyInterpreterView,
) -> *mut PyThreadStateToken {
}

/// Undoes this thread's most recent Ensure: exactly what was attached before it is attached again.
///
/// Caller: must have attached what the Ensure attached. `token` is what the Ensure returned.
/// Cannot fail. One release too many, or out of order, is a fatal error. Ensures that all found the same
/// thread state attached have no order.
///
/// Contract: PEP 788, PyThreadState_Release.
#[cfg(cbindgen)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Release(token: *mut PyThreadStateToken) {}
