//! Starts threads of the library's own, which take no signals and do not call Python.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::sync::{lock, Mutex, MutexGuard};

/// The work of a thread that is about to start.
static WORK: Mutex<Option<fn()>> = Mutex::new(None);

pub(crate) type Lock = MutexGuard<'static, Option<fn()>>;

/// Takes the lock for the time of a fork.
pub(crate) fn hold_lock() -> Lock {
    lock(&WORK)
}

/// Starts a thread that takes no signals. Returns `false` if no thread can be started.
pub(crate) fn start(body: fn()) -> bool {
    extern "C" fn run(body: *mut c_void) -> *mut c_void {
        // SAFETY: the argument is the function given below.
        let body = unsafe { std::mem::transmute::<*mut c_void, fn()>(body) };
        body();
        std::ptr::null_mut()
    }
    // SAFETY: the places are valid, and they are filled in before they are read. The thread is never joined.
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

/// Runs the work in a thread of its own. Returns `false` if it has not ended in that time. Then it may never end.
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
    // Acquire: pairs with the Release in `body`, so what the work did is done.
    while DONE.load(Ordering::Acquire) == before {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
