//! What the library knows of one thread, from its first Ensure to its end.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::birth::Birth;
use super::hold::Hold;
use super::kept_state::KeptState;
use super::legacy::Legacy;
use super::levels::Levels;
use crate::gate::gate::NotOut;
use crate::gate::record::Record;
use crate::gate::stripe::STRIPES;
use crate::gate::tally::{Tally, ROLL};
use crate::python::Found;
use crate::support::kept::Kept;
use crate::support::memory::try_box;
#[cfg(target_os = "linux")]
use crate::system::tasks;

pub(crate) struct Thread {
    /// The holds that the thread counts by itself. Other threads read this.
    pub(crate) tally: Tally,
    /// The record that the thread found last. It is always safe to follow, and right as long as it still names the
    /// interpreter that is asked for.
    pub(crate) last: Cell<Option<&'static Record>>,
    /// The thread state that the thread was once found to have attached (`python/current.rs`).
    pub(crate) found: Found,
    /// The number of the thread's place in the file of a watched process, plus one. 0: it has none.
    pub(crate) watched: Cell<u32>,
    /// The number of the stripe on which the thread counts its guards (`gate/stripe.rs`).
    pub(crate) stripe: usize,
    /// The token of the thread's latest Ensure.
    token: Cell<usize>,
    /// The thread's Ensures that wait for their Release.
    pub(crate) levels: Levels,
    pub(crate) legacy: Legacy,
    /// Whether the thread is making a thread state. Forks look at this.
    pub(crate) birth: Birth,
    /// What it keeps between Ensures.
    pub(crate) kept: KeptState,
    /// The kernel's numbers of the process and of the thread, for [`forget_the_gone`].
    ids: [AtomicI32; 2],
}

extern "C" {
    // These are in `thread.c`. The variable has no destructor, so that it can be used as long as the thread runs
    // any code: other destructors may call into Python. `forget` clears it at the end.
    #[allow(dead_code)] // see `word`
    fn pep788_get_thread() -> *mut c_void;
    fn pep788_set_thread(thread: *mut c_void);
}

/// Returns this thread's word of `thread.c`. It is read as a compiler would read an initial-exec variable: first
/// its place in the thread's block, which the loader has written down, and then the word in the block.
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    target_arch = "x86_64",
    not(feature = "vendored")
))]
#[inline(always)]
fn word() -> *mut c_void {
    let word: *mut c_void;
    // SAFETY: this reads two words that exist as long as the thread.
    unsafe {
        std::arch::asm!(
            "mov {word}, qword ptr [rip + pep788_thread@GOTTPOFF]",
            "mov {word}, qword ptr fs:[{word}]",
            word = out(reg) word,
            options(readonly, nostack, preserves_flags),
        );
    }
    word
}

#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    target_arch = "aarch64",
    not(feature = "vendored")
))]
#[inline(always)]
fn word() -> *mut c_void {
    let word: *mut c_void;
    // SAFETY: this reads two words that exist as long as the thread.
    unsafe {
        std::arch::asm!(
            "mrs {block}, tpidr_el0",
            "adrp {word}, :gottprel:pep788_thread",
            "ldr {word}, [{word}, #:gottprel_lo12:pep788_thread]",
            "ldr {word}, [{block}, {word}]",
            block = out(reg) _,
            word = out(reg) word,
            options(readonly, nostack, preserves_flags),
        );
    }
    word
}

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(feature = "vendored")
)))]
#[inline]
fn word() -> *mut c_void {
    // SAFETY: the function reads a thread-local variable.
    unsafe { pep788_get_thread() }
}

impl Thread {
    /// Returns this thread, if the library knows it already.
    ///
    /// Only this thread may use the reference, and it must not keep the reference: any call into Python or the
    /// loader may forget the thread.
    #[inline]
    pub(crate) fn known() -> Option<&'static Thread> {
        // SAFETY: the word is NULL, or the box that `enroll` made for this thread. `forget` frees it only when the
        // thread ends.
        unsafe { word().cast::<Thread>().as_ref() }
    }

    /// Returns this thread, or `None` if there is no memory.
    #[inline]
    pub(crate) fn this() -> Option<&'static Thread> {
        Thread::known().or_else(enroll)
    }

    /// Forgets the calling thread, which is ended without its destructors (`exit/late.rs`). Nothing of it is used
    /// any more.
    pub(crate) fn forget_this() {
        let thread = word();
        if !thread.is_null() {
            // SAFETY: this is the box that `enroll` made. The frames that have a reference to it never go on.
            unsafe { forget(thread) };
        }
    }

    /// Notes the thread's new numbers, in a forked child.
    pub(crate) fn forget_parent(&self) {
        for (known, now) in self.ids.iter().zip(this_thread()) {
            // Relaxed: this is the child's only thread.
            known.store(now, Ordering::Relaxed);
        }
    }

    /// Returns whether the thread's process does not have the thread any more.
    fn is_gone(&self) -> bool {
        let [process, id] = [&self.ids[0], &self.ids[1]].map(|id| id.load(Ordering::Relaxed));
        #[cfg(target_os = "linux")]
        // SAFETY: the system call takes numbers, and sends no signal.
        return unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) } != 0
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        #[cfg(not(target_os = "linux"))]
        return [process, id] != this_thread();
    }

    /// Returns a token for an Ensure. It is not NULL. Two Ensures of a thread do not have the same token. Two
    /// threads usually do not have the same tokens either.
    #[inline(always)]
    pub(crate) fn next_token(&self) -> usize {
        let token = self.token.get().wrapping_add(1);
        self.token.set(token);
        token
    }
}

impl Hold {
    /// Gives the hold back. If it is tallied, this must be the thread that took it.
    pub(crate) fn give_back(self) -> Result<(), NotOut> {
        match Thread::known() {
            Some(thread) => self.give_back_by(&thread.tally),
            // A thread that the library does not know has no tally, so the hold is not tallied.
            None => self.leave(),
        }
    }
}

/// Returns whether `is_it` is true for a thread that the library knows.
pub(crate) fn any(is_it: impl Fn(&Thread) -> bool) -> bool {
    ROLL.any(|whole| {
        let thread: *const Thread = std::ptr::with_exposed_provenance(whole);
        // SAFETY: the thread is on the roll, whose lock is held. It is taken off the roll before it is freed.
        is_it(unsafe { &*thread })
    })
}

/// The thread ends. This is the POSIX destructor for the value of the key.
unsafe extern "C" fn end(thread: *mut c_void) {
    // SAFETY: this is the box that `enroll` made for this thread, which is its own until `forget`.
    unsafe {
        (*thread.cast::<Thread>()).kept.end();
        forget(thread);
    }
}

/// Forgets a thread that ends or is gone.
///
/// # Safety
/// The thread has this box, which `enroll` made, and does not use it any more.
unsafe fn forget(thread: *mut c_void) {
    let thread = thread.cast::<Thread>();
    // SAFETY: this is the box that `enroll` made for this thread, and it is not used after this.
    unsafe {
        // A thread that ends inside an Ensure will not come to its Release. The interpreter must not wait for that.
        let levels = &(*thread).levels;
        for hold in (0..levels.len()).filter_map(|index| levels.take_hold(index)) {
            let _ = hold.give_back_by(&(*thread).tally);
        }
        (*thread).legacy.forget(&(*thread).tally);
        pep788_set_thread(std::ptr::null_mut());
        ROLL.remove(&(*thread).tally);
        drop(Box::from_raw(thread));
    }
}

/// Returns the kernel's numbers of this process and this thread.
#[cfg(target_os = "linux")]
fn this_thread() -> [i32; 2] {
    // SAFETY: `getpid` has no preconditions.
    [unsafe { libc::getpid() }, tasks::this_thread()]
}

/// Returns zeros, because the numbers are not known.
#[cfg(not(target_os = "linux"))]
fn this_thread() -> [i32; 2] {
    [0; 2]
}

/// Forgets threads whose end the library was not told of, and gives back what they held. Such a thread ended by a
/// bare system call. Or it used the library once more after the C library had called all destructors, which it does
/// four times at most.
///
/// The kernel uses a number again. So a thread that ended may be taken for another thread, which is there. It is
/// found when that thread has ended too.
#[cold]
pub(crate) fn forget_the_gone() {
    let own = word();
    let is_gone = |whole: usize| {
        let thread: *const Thread = std::ptr::with_exposed_provenance(whole);
        // The calling thread is never gone. If the library was not told of a fork, its numbers in the child are
        // those of the parent.
        // SAFETY: the thread is on the roll, whose lock is held. It is taken off the roll before it is freed.
        !std::ptr::eq(thread, own.cast()) && unsafe { &*thread }.is_gone()
    };
    while let Some(whole) = ROLL.take(is_gone) {
        let thread: *mut Thread = std::ptr::with_exposed_provenance_mut(whole);
        // SAFETY: this is the box that `enroll` made. Its thread has ended, and no other thread finds it. So this
        // thread acts for the ended one, and for itself again afterwards.
        unsafe {
            pep788_set_thread(thread.cast());
            forget(thread.cast());
            pep788_set_thread(own);
        }
    }
}

/// Returns the number of the stripe for a new thread. Threads that begin one after the other get different ones.
fn next_stripe() -> usize {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number, with which nothing is published.
    1 + BEGUN.fetch_add(1, Ordering::Relaxed) % STRIPES
}

#[cold]
fn enroll() -> Option<&'static Thread> {
    // This looks at every thread, so it is done only each time that their number doubles.
    if ROLL.is_full() {
        forget_the_gone();
    }
    // This is a POSIX key and not a Rust destructor. Its destructor runs after the C++ ones, and once more if the
    // thread uses the library again after that.
    static KEY: Kept<libc::pthread_key_t> = Kept::new();
    let key = match KEY.get() {
        Some(key) => *key,
        None => {
            let mut made = 0;
            // SAFETY: `made` is a valid place, and the library is never unloaded.
            if unsafe { libc::pthread_key_create(&mut made, Some(end)) } != 0 {
                return None;
            }
            let (key, is_ours) = KEY.keep(made);
            if !is_ours {
                // SAFETY: the key was made above, and never used.
                unsafe { libc::pthread_key_delete(made) };
            }
            *key
        }
    };
    let thread = Box::into_raw(try_box(Thread {
        tally: Tally::new(),
        last: Cell::new(None),
        found: Found::new(std::ptr::null_mut()),
        watched: Cell::new(0),
        stripe: next_stripe(),
        token: Cell::new(0),
        levels: Levels::new()?,
        legacy: Legacy::new(),
        birth: Birth::new(),
        kept: KeptState::new(),
        ids: this_thread().map(AtomicI32::new),
    })?);
    // SAFETY: this is the box that was made above. It is freed here only before another thread has seen it.
    unsafe {
        // The tokens of two threads begin far apart.
        (*thread).token.set((thread as usize) << 16);
        if libc::pthread_setspecific(key, thread.cast()) != 0 {
            drop(Box::from_raw(thread));
            return None;
        }
        if !ROLL.add(&(*thread).tally, thread.expose_provenance()) {
            libc::pthread_setspecific(key, std::ptr::null());
            drop(Box::from_raw(thread));
            return None;
        }
        pep788_set_thread(thread.cast());
        Some(&*thread)
    }
}
