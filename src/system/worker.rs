//! Threads of the library's own: they take no signals, and do not call Python.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::sync::{lock, Mutex, MutexGuard};

/// For a thread that is about to start.
static WORK: Mutex<Option<fn()>> = Mutex::new(None);

pub(crate) type Lock = MutexGuard<'static, Option<fn()>>;

/// For the time of a fork.
pub(crate) fn hold_lock() -> Lock {
    lock(&WORK)
}

/// Starts a thread that takes no signals. `false`: it cannot be had.
pub(crate) fn start(body: fn()) -> bool {
    extern "C" fn run(body: *mut c_void) -> *mut c_void {
        // SAFETY: what is given below.
        let body = unsafe { std::mem::transmute::<*mut c_void, fn()>(body) };
        body();
        std::ptr::null_mut()
    }
    // SAFETY: valid places, filled in before they are read; the thread is nobody's to join.
    unsafe {
        let (mut all, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        let mut thread = std::mem::zeroed();
        let failed =
            libc::pthread_create(&mut thread, std::ptr::null(), run, body as *mut c_void) != 0;
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        if !failed {
            libc::pthread_detach(thread);
        }
        !failed
    }
}

/// Runs it in a thread of its own. `false`: it has not come to its end in that time, and may never.
pub(crate) fn within(limit: Duration, work: fn()) -> bool {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    fn body() {
        let work = lock(&WORK).take();
        if let Some(work) = work {
            work();
        }
        DONE.fetch_add(1, Ordering::Release);
    }
    let before = DONE.load(Ordering::Relaxed);
    *lock(&WORK) = Some(work);
    if !start(body) {
        return false;
    }
    let begun = Instant::now();
    // Acquire: what the work did is done.
    while DONE.load(Ordering::Acquire) == before {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
