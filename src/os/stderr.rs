//! Tells the user on stderr, which may be broken: closed, full, or a pipe that nobody reads any more.
//!
//! None of this may keep an exit from going on, or change how the exit ends.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use super::posix::last_error;

/// How long a reader may take for each piece before the rest is left out.
const PATIENCE_MS: c_int = 1000;

/// How much a pipe takes without blocking, if it takes anything.
const PIECE: usize = libc::PIPE_BUF;

/// Writes to file descriptor 2. Python's own `sys.stderr` may be another file by now.
///
/// A piece is written only where `poll` says that there is room for it. So a pipe that is full, or a terminal that is
/// stopped, costs a second. (Another writer may be faster and take the room. Then this function waits for the reader
/// after all. `O_NONBLOCK` would rule that out, but it would change the pipe for everybody who shares it.)
pub(crate) fn say(text: &[u8]) {
    let _no_signal = WithoutSigpipe::new();
    let mut rest = text;
    while !rest.is_empty() && has_room() {
        let piece = &rest[..rest.len().min(PIECE)];
        // SAFETY: the bytes come from a valid slice.
        let written =
            unsafe { libc::write(libc::STDERR_FILENO, piece.as_ptr().cast(), piece.len()) };
        match usize::try_from(written) {
            Ok(written) => rest = &rest[written..],
            Err(_) if try_again() => {}
            Err(_) => return,
        }
    }
}

fn has_room() -> bool {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    loop {
        // SAFETY: there is one entry, and it is valid.
        match unsafe { libc::poll(&mut stderr, 1, PATIENCE_MS) } {
            0 => return false,
            // macOS knows nothing of some devices. Any other answer means a pipe without a reader, or no file at all.
            1.. if stderr.revents == libc::POLLNVAL => return is_open(),
            1.. => return stderr.revents == libc::POLLOUT,
            _ if try_again() => {}
            _ => return false,
        }
    }
}

fn is_open() -> bool {
    // SAFETY: the call takes numbers.
    unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_GETFD) != -1 }
}

/// Returns whether the call that has failed was interrupted, or whether another writer took its room.
fn try_again() -> bool {
    [libc::EINTR, libc::EAGAIN].contains(&last_error())
}

/// While this value lives, a write of this thread to a pipe without a reader raises no signal. Python ignores
/// SIGPIPE, but a program that embeds Python may not.
struct WithoutSigpipe {
    /// The mask to go back to. `None` if a SIGPIPE was pending before; it stays pending.
    before: Option<libc::sigset_t>,
}

impl WithoutSigpipe {
    fn new() -> WithoutSigpipe {
        if is_sigpipe_pending() {
            // A signal that is pending is blocked already.
            return WithoutSigpipe { before: None };
        }
        let mut before = MaybeUninit::uninit();
        let sigpipe = only_sigpipe();
        // SAFETY: both sets are valid places. The call writes the second set if it succeeds.
        let before = unsafe {
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe, before.as_mut_ptr());
            (failed == 0).then(|| before.assume_init())
        };
        WithoutSigpipe { before }
    }
}

impl Drop for WithoutSigpipe {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        // SAFETY: the sets and the place are valid. `sigwait` takes a signal that is there. The signal is this
        // thread's, because a write raises it in the thread that makes the write.
        unsafe {
            if is_sigpipe_pending() {
                libc::sigwait(&only_sigpipe(), &mut 0);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, core::ptr::null_mut());
        }
    }
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initializes the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

fn is_sigpipe_pending() -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigpending` initializes the set, if it succeeds.
    unsafe {
        libc::sigpending(set.as_mut_ptr()) == 0
            && libc::sigismember(set.as_ptr(), libc::SIGPIPE) == 1
    }
}
