//! The signal that makes threads stand still: how it is chosen and sent, and its handler.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(super) const MOST: usize = 1024;

/// The attempt that threads stand still for, or 0 if there is none. A number is never used again, so a signal that
/// comes late does nothing.
pub(super) static ROUND: AtomicU32 = AtomicU32::new(0);

/// Returns whether threads stand still, or are about to. They may have any lock.
#[cfg_attr(not(pep788_c_library), allow(dead_code))]
pub(crate) fn are_threads_stopped() -> bool {
    // Relaxed: only the thread that panics while it stops the others needs the answer, and that one has set it.
    ROUND.load(Ordering::Relaxed) != 0
}

/// For each thread that a signal was sent to: the round in which the thread stands still, and whether it is inside.
pub(super) static PLACES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
pub(super) const OUTSIDE: u64 = 1;
pub(super) const INSIDE: u64 = 2;

/// Where no thread may be: the begin and the end of each range. A range from 0 to 0 stands for no range.
pub(super) static BANNED: [AtomicUsize; 10] = [const { AtomicUsize::new(0) }; 10];

/// While this value lives, its thread takes no signals.
pub(crate) struct NoSignals(libc::sigset_t);

impl NoSignals {
    pub(crate) fn new() -> NoSignals {
        // SAFETY: the places are valid, and are filled in before they are read.
        unsafe {
            let mut all = MaybeUninit::uninit();
            let mut before = MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(before.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            NoSignals(before.assume_init())
        }
    }

    /// Returns the signals that this thread blocks.
    fn now() -> libc::sigset_t {
        let mut now = MaybeUninit::uninit();
        // SAFETY: the places are valid, and are filled in before they are read.
        unsafe {
            libc::sigemptyset(now.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, core::ptr::null(), now.as_mut_ptr());
            now.assume_init()
        }
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        // SAFETY: this restores the mask from before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, core::ptr::null_mut()) };
    }
}

/// Returns what a thread notes in its place.
pub(super) fn note(round: u32, whether: u64) -> u64 {
    u64::from(round) << 2 | whether
}

/// Takes a real-time signal that nobody uses. The calling thread blocks all signals. The handler stays: a signal that comes late must not end the process.
pub(crate) fn take_signal(handler: Handler) -> Option<c_int> {
    let handler = handler as usize;
    let blocked = NoSignals::now();
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: the places are valid, and the action is filled in before it is looked at.
        unsafe {
            // The calling thread blocks all signals but those that only the C library knows. QEMU's emulation of
            // programs has fewer signals.
            if libc::sigismember(&blocked, *signal) != 1 {
                return false;
            }
            if libc::sigaction(*signal, core::ptr::null(), action.as_mut_ptr()) != 0 {
                return false;
            }
            let mut action = action.assume_init();
            if action.sa_sigaction == handler {
                return true;
            }
            if action.sa_sigaction != libc::SIG_DFL {
                return false;
            }
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            // The mask has the C library's own signals too, which `sigfillset` leaves out. If such a signal
            // interrupted the handler, the place of the handler could be taken for the place where the thread was.
            (&raw mut action.sa_mask).write_bytes(u8::MAX, 1);
            libc::sigaction(*signal, &action, core::ptr::null_mut()) == 0
        }
    })
}

pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Returns whether [`send`] sent the signal.
///
/// # Safety
/// `info` is what the kernel gave a handler.
pub(super) unsafe fn is_ours(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the caller promises that `info` is what the kernel gave a handler. A queued signal names its sender.
    unsafe { (*info).si_code == libc::SI_QUEUE && (*info).si_pid() == libc::getpid() }
}

pub(super) extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are what the kernel gives a handler. Only signals of the library have a round in their
    // value.
    unsafe {
        let value = (*info).si_value().sival_ptr as usize;
        let (round, place) = ((value >> 16) as u32, value & 0xffff);
        // Acquire: pairs with the store of the round in `with_all_stopped`. The banned ranges come with the round.
        if !is_ours(info) || round == 0 || ROUND.load(Ordering::Acquire) != round || place >= MOST {
            return;
        }
        let errno = *libc::__errno_location();
        let at = program_counter(context.cast());
        let is_inside = BANNED.chunks(2).any(|range| {
            let [begin, end] = [&range[0], &range[1]].map(|bound| bound.load(Ordering::Relaxed));
            (begin..end).contains(&at)
        });
        // Release: pairs with the loads in `is_settled`, which counts the threads.
        let whether = if is_inside { INSIDE } else { OUTSIDE };
        PLACES[place].store(note(round, whether), Ordering::Release);
        // Acquire: pairs with the store that ends the round.
        while !is_inside && ROUND.load(Ordering::Acquire) == round {
            let forever = core::ptr::null::<libc::timespec>();
            libc::syscall(libc::SYS_futex, &ROUND, libc::FUTEX_WAIT, round, forever);
        }
        *libc::__errno_location() = errno;
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn program_counter(context: *const libc::ucontext_t) -> usize {
    // SAFETY: the caller promises that the context is the kernel's.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] as usize }
}

#[cfg(target_arch = "aarch64")]
unsafe fn program_counter(context: *const libc::ucontext_t) -> usize {
    // SAFETY: the caller promises that the context is the kernel's.
    unsafe { (*context).uc_mcontext.pc as usize }
}

/// Sends the signal to a thread, with the round and the thread's place. Returns `false` if that cannot be done now.
pub(super) fn send(id: libc::pid_t, signal: c_int, round: u32, place: usize) -> bool {
    /// The kernel's form of `siginfo_t`. The C library's form has no public fields.
    #[repr(C)]
    struct Info {
        signal: c_int,
        error: c_int,
        code: c_int,
        _align: c_int,
        process: libc::pid_t,
        user: libc::uid_t,
        value: usize,
        rest: [u8; 128 - 32],
    }
    // SAFETY: the calls take numbers, and read a record of the size that the kernel expects.
    unsafe {
        let info = Info {
            signal,
            error: 0,
            code: libc::SI_QUEUE,
            _align: 0,
            process: libc::getpid(),
            user: libc::getuid(),
            value: (round as usize) << 16 | place,
            rest: [0; 128 - 32],
        };
        let process = libc::getpid();
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, id, signal, &info) == 0
    }
}
