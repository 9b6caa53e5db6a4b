//! Views of the interpreter's own, from 3.15 on, after the library's wait is over.
//!
//! The interpreter waits until no guard is out, and honours views all the while. So threads that take one guard after the
//! other by a view, without a pause, keep it from its end: one of them has a guard at any time. And an object that would
//! stop them is destroyed only then. Here such a thread is refused, as the interpreter itself does a moment later, once the
//! grace is over that the library's own gate has (`PEP788_DRAIN_GRACE_MS`).

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::call::request_install;
use crate::exit::wait::closed_for;
use crate::patch::{original, patch};
use crate::python::{self, Api, Finder};
use crate::support::settings;
use crate::thread::attached::attached;

/// `PyInterpreterGuard_FromView` and `PyThreadState_EnsureFromView` of a CPython: both take a view, and return NULL when it is
/// too late. NULL where it has none.
pub(super) type Functions = [*mut c_void; 2];

/// Copies of these.
static ORIGINALS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Those of the CPython that is known, if they serve its views.
pub(super) fn of_interpreter(py: &Api) -> Functions {
    python::native(py).map_or([null_mut(); 2], |native| {
        [native.PyInterpreterGuard_FromView, native.PyThreadState_EnsureFromView]
            .map(|function| function as *const () as *mut c_void)
    })
}

/// Those of one that just came.
pub(super) fn of_late(find: Finder) -> Functions {
    [find(c"PyInterpreterGuard_FromView"), find(c"PyThreadState_EnsureFromView")]
}

/// Has them come here. Where that cannot be, they are as they were.
pub(super) fn redirect(functions: Functions, runners: patch::Runners) {
    let ours = [guard_from_view as *const () as usize, ensure_from_view as *const () as usize];
    let mut redirections = Vec::new();
    for ((found, original), to) in functions.into_iter().zip(&ORIGINALS).zip(ours) {
        let copy = if found.is_null() { None } else { original::of(found) };
        if let Some(copy) = copy {
            // Relaxed: it is there before anybody is led here, for which other threads stand still.
            original.store(copy, Ordering::Relaxed);
            redirections.push((found as usize, to));
        }
    }
    if !redirections.is_empty() {
        let _ = patch::redirect(&redirections, &[], runners);
    }
}

unsafe extern "C" fn guard_from_view(view: usize) -> usize {
    // SAFETY: as called.
    unsafe { unless_late(0, view) }
}

unsafe extern "C" fn ensure_from_view(view: usize) -> usize {
    // SAFETY: as called.
    unsafe { unless_late(1, view) }
}

unsafe fn unless_late(function: usize, view: usize) -> usize {
    if let Some(py) = python::get() {
        // The exit is to be bounded for a program that uses nothing else.
        request_install(py);
        if is_too_late(py) {
            return 0;
        }
    }
    // SAFETY: the copy of a function of CPython's of this type, stored before anybody was led here.
    unsafe {
        let original = std::mem::transmute::<usize, unsafe extern "C" fn(usize) -> usize>(
            ORIGINALS[function].load(Ordering::Relaxed),
        );
        original(view)
    }
}

/// Not for a thread that is attached: it is in a call, and may need the guard to come out of it.
fn is_too_late(py: &Api) -> bool {
    let Some(closed) = closed_for() else { return false };
    settings::get().drain_grace.is_some_and(|grace| closed > grace) && attached(py).is_null()
}
