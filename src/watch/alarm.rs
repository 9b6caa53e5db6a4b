//! Tells the main thread of a disturbed program to leave, some time after the first thread has attached.
//!
//! The main thread gets a signal. The package's hook has seen to it, when Python started, that Python raises `SystemExit`
//! then, also where the main thread waits for something (`wheel/pep788/_at_start.py`).

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;
use core::time::Duration;

use super::disturb::{is_on, random, SIGNAL, WITHIN};
use super::file::File;
use crate::os::{self, start_thread};
use crate::python;

// Relaxed, in the whole file: the numbers decide about delays only.

/// Keeps the signal from ending a program in which the hook has not run. This is done when the library is loaded.
pub(super) fn prepare() {
    extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
    if is_on() {
        // SAFETY: the places are valid, and are filled in before they are read. A number that is no signal's is refused.
        unsafe {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = ignore as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(
                SIGNAL.load(Ordering::Relaxed) as c_int,
                &action,
                core::ptr::null_mut(),
            );
        }
    }
}

/// Sets the alarm, once in the process.
pub(super) fn set(file: &File) {
    if is_on() && file.has_alarm.swap(1, Ordering::Relaxed) == 0 {
        start_thread(ring);
    }
}

fn ring() {
    let within = WITHIN.load(Ordering::Relaxed).max(1) * 1000;
    os::sleep(Duration::from_micros(random(0, 0) % within));
    // SAFETY: the calls take numbers. The main thread has the number of the process.
    unsafe {
        let (process, signal) = (libc::getpid(), SIGNAL.load(Ordering::Relaxed));
        if python::get().is_some_and(|py| py.Py_IsInitialized() != 0) {
            libc::syscall(libc::SYS_tgkill, process, process, signal);
        }
    }
}
