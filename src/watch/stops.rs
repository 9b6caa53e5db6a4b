//! Notes where the process is when a signal ends it, and where the main thread is when somebody asks.
//!
//! The signals' own actions stay: after the note the process ends as it would have.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;
use core::time::Duration;

use super::file::{file, now, Stop, DEPTH};
use super::{alarm, maps};
use crate::os::{self, this_id};
use crate::patch::signal::{self, NoSignals};
use crate::system::stack;

const FATAL: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// Installs the handlers. This is done when the library is loaded, before the program installs its own, and has threads.
pub(crate) fn watch() {
    let Some(file) = file() else { return };
    // So a handler finds most of what it needs.
    maps::read(file);
    alarm::prepare();
    for number in FATAL {
        // SAFETY: the places are valid, and are filled in before they are read.
        unsafe {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = crash as *const () as usize;
            // After the handler the default action ends the process, as the signal is raised again.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(number, &action, core::ptr::null_mut());
        }
    }
    let _no_signals = NoSignals::new();
    let signal = signal::take_signal(look).unwrap_or(0);
    file.look_signal.store(signal as u32, Ordering::Relaxed);
}

extern "C" fn crash(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    if let Some(file) = file() {
        // Relaxed: only the first thread that crashes notes it.
        let first = &file.crash.thread;
        let before = first.compare_exchange(0, this_id(), Ordering::Relaxed, Ordering::Relaxed);
        match before {
            Ok(_) => note(&file.crash, signal),
            // The first one crashed while it was noting.
            Err(other) if other == this_id() => {}
            Err(_) => wait_for(&file.crash),
        }
    }
    // SAFETY: the kernel has filled in the record. A signal that another process or `raise` sent does not come again
    // by itself.
    unsafe {
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Waits until another thread has noted its crash. This thread's would end the process in the middle of that.
fn wait_for(stop: &Stop) {
    for _ in 0..1000 {
        // Relaxed: nothing is read because of it.
        if stop.when.load(Ordering::Relaxed) != 0 {
            return;
        }
        os::sleep(Duration::from_millis(1));
    }
}

/// Notes the stack of the main thread, and passes the request on to it if another thread got it.
extern "C" fn look(signal: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: no preconditions; `errno` is this thread's own.
    unsafe {
        let main = libc::getpid();
        if this_id() != main as u64 {
            libc::syscall(libc::SYS_tgkill, main, main, signal);
            return;
        }
        let errno = *libc::__errno_location();
        if let Some(file) = file() {
            file.look.thread.store(this_id(), Ordering::Relaxed);
            note(&file.look, signal);
        }
        *libc::__errno_location() = errno;
    }
}

fn note(stop: &Stop, signal: c_int) {
    let Some(file) = file() else { return };
    let mut addresses = [0; DEPTH];
    let depth = stack::walk(&mut addresses);
    maps::note(file, &addresses[..depth]);
    stop.stack.set(&addresses[..depth]);
    stop.signal.store(signal as u64, Ordering::Relaxed);
    // Release: who sees the time sees the stack.
    stop.when.store(now(), Ordering::Release);
}
