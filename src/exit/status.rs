//! Finds out with which status a process is about to end.
//!
//! `exit` tells that status to a function of the library (`on_exit`). As long as CPython has not called `exit`, the
//! status is in a variable of `Py_RunMain`, or of `Py_Exit`. So the library makes a copy of the process, which has no
//! other threads. The copy goes on in that function as if finalization had come to its end. It goes on up to `exit`,
//! which is made to jump to the library's function, so that no handler and no destructor runs. That function tells the
//! status. If that fails, the status is a guess.
//!
//! `exit` may not have come to the library's function yet: first it destroys `thread_local` objects, and calls handlers
//! that were registered later. Then the copy goes on in `exit`, as if the destructor or handler had returned.
//!
//! musl has no `on_exit`. If the process is in `exit` already, the status is a guess there.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use crate::os;
use crate::patch::patch::Jump;
use crate::support::clock::Instant;
use crate::system::stack::Return;

/// How a process ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    Status(c_int),
    Guess,
    /// By Ctrl-C.
    Interrupted,
}

/// What `exit` was called with, and `KNOWN`, or only `BEGUN`. 0 means that it was not called yet.
static STATUS: AtomicU64 = AtomicU64::new(0);
const KNOWN: u64 = 1 << 32;
const BEGUN: u64 = 1 << 33;

/// Whether this process is the copy that finds out the exit status.
static IS_COPY: AtomicBool = AtomicBool::new(false);

extern "C" fn exits(status: c_int, _: *mut c_void) {
    // Relaxed: the copy has only one thread.
    if IS_COPY.load(Ordering::Relaxed) {
        // SAFETY: ends the copy, which has nothing to clean up.
        unsafe { libc::_exit(status) };
    }
    // Relaxed: the status publishes no other data.
    STATUS.store(KNOWN | BEGUN | u64::from(status as u32), Ordering::Relaxed);
}

extern "C" fn begins() {
    // Relaxed: as in `exits`.
    STATUS.store(BEGUN, Ordering::Relaxed);
}

/// Has the library told when the process calls `exit`. This is done at the exit of Python and not earlier, because
/// `exit` calls first what was registered last.
pub(super) fn watch_exit() {
    // Relaxed, here and where it is read: the number alone is published.
    STATUS.store(0, Ordering::Relaxed);
    os::at_exit(exits, begins);
}

/// Returns whether `exit` was called.
pub(super) fn exit_has_begun() -> bool {
    STATUS.load(Ordering::Relaxed) & BEGUN != 0
}

/// Returns how the process is about to end. `back` is the return from finalization into the function that has the
/// status, in a thread that has not come there yet unless `exit` was called. `in_exit` is the return into what `exit`
/// has called, if the thread is there.
pub(super) fn find(back: Option<&Return>, in_exit: Option<&Return>) -> End {
    let status = STATUS.load(Ordering::Relaxed);
    if status & KNOWN != 0 {
        return End::Status(status as u32 as c_int);
    }
    // In `exit` the function with the status has returned, and its frame may be another one's.
    let known = in_exit.or(back).filter(|_| status & BEGUN == 0);
    known.map_or(End::Guess, ask_a_copy)
}

fn ask_a_copy(back: &Return) -> End {
    const PATIENCE: Duration = Duration::from_secs(3);
    // `exit` has one argument: `exits` does not look at the second one. This is prepared before there is a copy, which
    // may lack the thread that has the lock of the allocator.
    let [exit, exits] = [libc::exit as *const (), exits as *const ()].map(|it| it as usize);
    let jump = Jump::new(exit, exits).ok();
    if jump.is_none() && !os::TELLS_EXIT_STATUS {
        return End::Guess;
    }
    // SAFETY: makes a plain copy of the process, as `fork` does, but does not run the handlers for forks, which may
    // wait for locks. The copy raises no signal when it ends, and no other thread that waits for children gets it.
    unsafe {
        let copy = libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) as libc::pid_t;
        if copy == 0 {
            // Relaxed: the copy has one thread.
            IS_COPY.store(true, Ordering::Relaxed);
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            let is_written = jump.is_some_and(|jump| jump.write().is_ok());
            if !is_written && !os::TELLS_EXIT_STATUS {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
            // Python ends itself by this signal after a Ctrl-C.
            let mut interrupt = core::mem::zeroed();
            libc::sigemptyset(&mut interrupt);
            libc::sigaddset(&mut interrupt, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &interrupt, core::ptr::null_mut());
            back.take();
        }
        if copy < 0 {
            return End::Guess;
        }
        let begun = Instant::now();
        let mut status = 0;
        while libc::waitpid(copy, &mut status, libc::__WALL | libc::WNOHANG) == 0 {
            if begun.elapsed() > PATIENCE {
                libc::kill(copy, libc::SIGKILL);
                libc::waitpid(copy, &mut status, libc::__WALL);
                return End::Guess;
            }
            libc::usleep(1000);
        }
        if libc::WIFEXITED(status) {
            End::Status(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGINT {
            End::Interrupted
        } else {
            End::Guess
        }
    }
}
