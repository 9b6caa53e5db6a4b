//! musl: what this C library does in its own way, where `linux.rs` has what glibc does.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;

use super::linux::at_load;
use super::posix::{forget_values, sleep_for_ever};

// --- The end of a thread --------------------------------------------------------------------------

pub(crate) fn prepare_to_end_threads() {}

/// Ends the calling thread by `pthread_exit`, which in musl unwinds nothing. The kernel alone must not end it: it clears the
/// lock of musl's list of threads then, which another thread may have.
///
/// What `pthread_exit` would call is taken away from it: the functions of `pthread_cleanup_push`, and the values of keys,
/// which have destructors. It frees the stack of a detached thread, where other threads may still look for something. So
/// such a thread sleeps without end.
pub(crate) fn end_this_thread() -> ! {
    if !is_joinable() {
        sleep_for_ever()
    }
    forget_cleanups();
    forget_values();
    // SAFETY: no frame is returned to. Only code that knows that the thread may end at any time still uses anything of the
    // thread, and its stack is there until another thread has joined it.
    unsafe { libc::pthread_exit(core::ptr::null_mut()) }
}

/// Returns whether the thread was not detached yet.
fn is_joinable() -> bool {
    extern "C" {
        fn pthread_attr_getdetachstate(
            attributes: *const libc::pthread_attr_t,
            state: *mut c_int,
        ) -> c_int;
    }
    let mut attributes = MaybeUninit::uninit();
    let mut state = libc::PTHREAD_CREATE_DETACHED;
    // SAFETY: the attributes are filled in before they are read, and own nothing.
    unsafe {
        libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) == 0
            && pthread_attr_getdetachstate(attributes.as_ptr(), &mut state) == 0
            && state == libc::PTHREAD_CREATE_JOINABLE
    }
}

fn forget_cleanups() {
    /// What the macro `pthread_cleanup_push` has on the stack, in musl's `pthread.h`.
    #[repr(C)]
    struct Cleanup {
        function: *mut c_void,
        argument: *mut c_void,
        next: *mut Cleanup,
    }
    extern "C" {
        fn _pthread_cleanup_pop(top: *mut Cleanup, is_to_run: c_int);
    }
    let nothing = core::ptr::null_mut();
    let mut only = Cleanup { function: nothing, argument: nothing, next: core::ptr::null_mut() };
    // SAFETY: what is popped is not called, and nothing follows it.
    unsafe { _pthread_cleanup_pop(&mut only, 0) };
}

// --- The process ----------------------------------------------------------------------------------

/// Has later calls of `pthread_atfork` wait for a fork that is under way, as they do in glibc. musl locks its list of
/// handlers for the time of a fork only if there are any: the list gets one that does nothing. Otherwise the handlers may
/// be called after a fork that they were not called before, and another thread may have had a lock of the library then.
extern "C" fn have_fork_handlers() {
    // SAFETY: no function is registered. If there is no memory, forks are as they were.
    unsafe { libc::pthread_atfork(None, None, None) };
}

at_load!(have_fork_handlers);

/// Whether [`at_exit`] tells the exit status.
pub(crate) const TELLS_EXIT_STATUS: bool = false;

/// Has `begins` called when the process calls `exit`. musl tells nobody with which status.
pub(crate) fn at_exit(_: extern "C" fn(c_int, *mut c_void), begins: extern "C" fn()) {
    // SAFETY: the function stays loaded. It is not called if there is no memory.
    unsafe { libc::atexit(begins) };
}
