//! Borrows the signal that glibc keeps for itself: no thread blocks it by `pthread_sigmask`.
//!
//! glibc sends this signal to all threads when a program calls `setuid` and the like. It takes the signal out of the
//! set that a thread asks to block. So the signal stops a thread that blocks all others. While the signal is
//! borrowed, what glibc sends is passed on to glibc. If a signal of this library comes late, glibc ignores it. Other
//! C libraries block their own signal at times, so there nothing is borrowed.

use core::ffi::{c_int, c_ulong, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::signal::{handle, is_ours, Handler};

/// `SIGSETXID` of glibc's sources.
pub(super) const SIGNAL: c_int = 33;

/// The kernel's form of `sigaction`. The C library's function refuses this signal.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Action {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// glibc's handler.
static GLIBCS: AtomicUsize = AtomicUsize::new(0);

/// The borrowed signal with its former action. It is given back when this is dropped.
pub(super) struct Borrowed(Action);

impl Borrowed {
    /// Borrows the signal. Returns `None` if the signal is not glibc's, or cannot be had.
    pub(super) fn take() -> Option<Borrowed> {
        // ThreadSanitizer has a thread of its own that does not block this signal. That thread must not run
        // instrumented code.
        if !cfg!(target_env = "gnu") || cfg!(pep788_pthread_locks) {
            return None;
        }
        let mut before = Action::default();
        let takes_three = libc::SA_SIGINFO as c_ulong;
        let is_glibcs = exchange(None, Some(&mut before))
            && before.handler != libc::SIG_DFL
            && before.handler != libc::SIG_IGN
            && before.flags & takes_three != 0;
        if !is_glibcs {
            return None;
        }
        // Relaxed: the kernel orders this store before the first call of the handler.
        GLIBCS.store(before.handler, Ordering::Relaxed);
        let mine = Action {
            handler: handle_or_pass_on as Handler as usize,
            // The thread's own stack may be a small one that a runtime made.
            flags: before.flags | (libc::SA_RESTART | libc::SA_ONSTACK) as c_ulong,
            mask: u64::MAX,
            ..before
        };
        exchange(Some(&mine), None).then_some(Borrowed(before))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        exchange(Some(&self.0), None);
    }
}

extern "C" fn handle_or_pass_on(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: what the kernel gives a handler goes on to a handler. glibc's handler has this type, as `take` saw by
    // its flags.
    unsafe {
        if is_ours(info) {
            handle(number, info, context);
        } else {
            let glibcs = GLIBCS.load(Ordering::Relaxed);
            core::mem::transmute::<usize, Handler>(glibcs)(number, info, context);
        }
    }
}

/// Exchanges the action of the signal. Returns `false` if the system refuses that.
fn exchange(new: Option<&Action>, old: Option<&mut Action>) -> bool {
    let new = new.map_or(core::ptr::null(), core::ptr::from_ref);
    let old = old.map_or(core::ptr::null_mut(), core::ptr::from_mut);
    // SAFETY: the records have the kernel's form, and its sets of signals have this many bytes.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, SIGNAL, new, old, size_of::<u64>()) == 0 }
}
