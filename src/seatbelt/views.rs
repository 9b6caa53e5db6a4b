//! Refuses late threads that use the interpreter's own views, which exist from 3.15 on.
//!
//! This file matters after the library's own wait is over. The interpreter then waits until no guard is out, and
//! honours views all the while. So threads that take one guard after the other by a view, without a pause, keep the
//! interpreter from its end: one of them has a guard at any time. And an object that would stop these threads is
//! destroyed only at that end.
//!
//! So a thread that takes a guard by a view is refused here, once the grace of the library's own gate is over
//! (`PEP788_DRAIN_GRACE_MS`). The interpreter itself does the same a moment later.

use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::call::request_install;
use crate::exit::wait::closed_for;
use crate::patch::{original, patch};
use crate::python::{self, Api, Finder};
use crate::support::settings;
use crate::thread::attached::attached;

/// `PyInterpreterGuard_FromView` and `PyThreadState_EnsureFromView` of one CPython. Both take a view, and return
/// NULL when it is too late. An entry is NULL if that CPython does not have the function.
pub(super) type Functions = [*mut c_void; 2];

/// Copies of the two functions as CPython wrote them.
static ORIGINALS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Returns the two functions of the CPython that is known, if they serve its views.
pub(super) fn of_interpreter(py: &Api) -> Functions {
    python::native(py).map_or([null_mut(); 2], |native| {
        [native.PyInterpreterGuard_FromView, native.PyThreadState_EnsureFromView]
            .map(|function| function as *const () as *mut c_void)
    })
}

/// Returns the two functions of a CPython that was loaded only now.
pub(super) fn of_late(find: Finder) -> Functions {
    [find(c"PyInterpreterGuard_FromView"), find(c"PyThreadState_EnsureFromView")]
}

/// Redirects the two functions to this file. Functions that cannot be redirected stay as they were.
pub(super) fn redirect(functions: Functions, runners: patch::Runners) {
    let ours = [guard_from_view as *const () as usize, ensure_from_view as *const () as usize];
    let mut redirections = Vec::new();
    for ((found, original), to) in functions.into_iter().zip(&ORIGINALS).zip(ours) {
        let copy = if found.is_null() { None } else { original::of(found) };
        if let Some(copy) = copy {
            // Relaxed: the copy is stored before any thread is led here, and for that other threads stand still.
            original.store(copy, Ordering::Relaxed);
            redirections.push((found as usize, to));
        }
    }
    if !redirections.is_empty() {
        let _ = patch::redirect(&redirections, &[], runners);
    }
}

unsafe extern "C" fn guard_from_view(view: usize) -> usize {
    // SAFETY: the caller promises what CPython's own function asks for.
    unsafe { unless_late(0, view) }
}

unsafe extern "C" fn ensure_from_view(view: usize) -> usize {
    // SAFETY: the caller promises what CPython's own function asks for.
    unsafe { unless_late(1, view) }
}

unsafe fn unless_late(function: usize, view: usize) -> usize {
    if let Some(py) = python::get() {
        // The exit is to be bounded also for a program that uses nothing else.
        request_install(py);
        if is_too_late(py) {
            return 0;
        }
    }
    // SAFETY: the copy is of a CPython function of this type. It was stored before any thread was led here.
    unsafe {
        let original = core::mem::transmute::<usize, unsafe extern "C" fn(usize) -> usize>(
            ORIGINALS[function].load(Ordering::Relaxed),
        );
        original(view)
    }
}

/// Returns whether the calling thread is to be refused. A thread that is attached is not refused: it is in a call,
/// and may need the guard to come out of that call.
fn is_too_late(py: &Api) -> bool {
    let Some(closed) = closed_for() else { return false };
    settings::get().drain_grace.is_some_and(|grace| closed > grace) && attached(py).is_null()
}
