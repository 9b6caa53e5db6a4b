//! What the library knows of one thread, from its first Ensure to its end.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};

use super::birth::Birth;
use super::hold::Hold;
use super::legacy::Legacy;
use super::levels::Levels;
use crate::gate::gate::NotOut;
use crate::gate::record::Record;
use crate::gate::tally::{Tally, ROLL};
use crate::support::kept::Kept;
use crate::support::memory::try_box;
#[cfg(target_os = "linux")]
use crate::system::tasks;

pub(crate) struct Thread {
    /// What it holds by itself; other threads read it.
    pub(crate) tally: Tally,
    /// The record it found last. Always safe to follow, and right as long as it still names the
    /// interpreter that is asked for.
    pub(crate) last: Cell<Option<&'static Record>>,
    /// The token of its latest Ensure.
    token: Cell<usize>,
    /// Its Ensures that wait for their Release.
    pub(crate) levels: Levels,
    pub(crate) legacy: Legacy,
    /// Whether it is making a thread state; forks look at it.
    pub(crate) birth: Birth,
    /// The kernel's numbers of its process and of it, for [`forget_the_gone`].
    ids: [AtomicI32; 2],
}

extern "C" {
    // Of `thread.c`. Without a destructor, so that it can be used as long as the thread runs any
    // code: other destructors may call into Python. See `forget` for the end of it.
    #[allow(dead_code)] // see `word`
    fn pep788_get_thread() -> *mut c_void;
    fn pep788_set_thread(thread: *mut c_void);
}

/// This thread's word of `thread.c`, as a compiler would read an initial-exec variable: its place
/// in the thread's block, which the loader has written down, and the block.
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    target_arch = "x86_64",
    not(feature = "vendored")
))]
#[inline(always)]
fn word() -> *mut c_void {
    let word: *mut c_void;
    // SAFETY: reads two words that exist as long as the thread.
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
    // SAFETY: reads two words that exist as long as the thread.
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
    // SAFETY: reads a thread-local variable.
    unsafe { pep788_get_thread() }
}

impl Thread {
    /// This thread, if it is known already.
    ///
    /// The reference is for this thread alone, and not for keeping: the thread may be forgotten
    /// in any call into Python or the loader.
    #[inline]
    pub(crate) fn known() -> Option<&'static Thread> {
        // SAFETY: NULL, or the box that `enroll` made for this thread, which `forget` frees only
        // when it ends.
        unsafe { word().cast::<Thread>().as_ref() }
    }

    /// This thread. `None`: out of memory.
    #[inline]
    pub(crate) fn this() -> Option<&'static Thread> {
        Thread::known().or_else(enroll)
    }

    /// The calling thread is ended without its destructors (`exit/late.rs`). Nothing of it is used any more.
    pub(crate) fn forget_this() {
        let thread = word();
        if !thread.is_null() {
            // SAFETY: the box that `enroll` made. The frames that have a reference to it never go on.
            unsafe { forget(thread) };
        }
    }

    /// In a forked child: it has other numbers there.
    pub(crate) fn forget_parent(&self) {
        for (known, now) in self.ids.iter().zip(this_thread()) {
            // Relaxed: the child's only thread.
            known.store(now, Ordering::Relaxed);
        }
    }

    /// Whether its process has it no more.
    fn is_gone(&self) -> bool {
        let [process, id] = [&self.ids[0], &self.ids[1]].map(|id| id.load(Ordering::Relaxed));
        #[cfg(target_os = "linux")]
        // SAFETY: takes numbers, and sends nothing.
        return unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) } != 0
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        #[cfg(not(target_os = "linux"))]
        return [process, id] != this_thread();
    }

    /// Not NULL, and not the same for two Ensures of a thread, nor (as a rule) of two threads.
    #[inline(always)]
    pub(crate) fn next_token(&self) -> usize {
        let token = self.token.get().wrapping_add(1);
        self.token.set(token);
        token
    }
}

impl Hold {
    /// One that is not tallied; or in the thread that took it.
    pub(crate) fn give_back(self) -> Result<(), NotOut> {
        match Thread::known() {
            Some(thread) => self.give_back_by(&thread.tally),
            // Then it is not tallied.
            None => self.leave(),
        }
    }
}

/// Whether `is_it` says so of a thread that the library knows.
pub(crate) fn any(is_it: impl Fn(&Thread) -> bool) -> bool {
    ROLL.any(|whole| {
        let thread: *const Thread = std::ptr::with_exposed_provenance(whole);
        // SAFETY: on the roll, whose lock is held: whoever frees it takes it off before.
        is_it(unsafe { &*thread })
    })
}

/// The thread ends. A destructor of POSIX, for the value of the key.
unsafe extern "C" fn forget(thread: *mut c_void) {
    let thread = thread.cast::<Thread>();
    // SAFETY: the box that `enroll` made for this thread, which is not used after this.
    unsafe {
        // A thread that ends inside an Ensure will not come to its Release; the interpreter
        // must not wait for it.
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

/// The kernel's numbers of this process and this thread.
#[cfg(target_os = "linux")]
fn this_thread() -> [i32; 2] {
    // SAFETY: no preconditions.
    [unsafe { libc::getpid() }, tasks::this_thread()]
}

/// Not known.
#[cfg(not(target_os = "linux"))]
fn this_thread() -> [i32; 2] {
    [0; 2]
}

/// Forgets threads that ended without a word: by a bare system call, or that used the library once more when the C library
/// had called all destructors (it does so four times at most). What they held is given back.
///
/// A number is used again, so one that ended may be taken for another, which is there; it is found when that has ended too.
#[cold]
pub(crate) fn forget_the_gone() {
    let own = word();
    let is_gone = |whole: usize| {
        let thread: *const Thread = std::ptr::with_exposed_provenance(whole);
        // Not this one, in any case: in the child of a fork that nobody told of, its numbers are those of the parent.
        // SAFETY: on the roll, whose lock is held: whoever frees it takes it off before.
        !std::ptr::eq(thread, own.cast()) && unsafe { &*thread }.is_gone()
    };
    while let Some(whole) = ROLL.take(is_gone) {
        let thread: *mut Thread = std::ptr::with_exposed_provenance_mut(whole);
        // SAFETY: the box that `enroll` made. Its thread has ended, and nobody else finds it. So this thread acts for it,
        // and for itself again afterwards.
        unsafe {
            pep788_set_thread(thread.cast());
            forget(thread.cast());
            pep788_set_thread(own);
        }
    }
}

#[cold]
fn enroll() -> Option<&'static Thread> {
    // Looks at each that there is: so it is done as often as their number doubles.
    if ROLL.is_full() {
        forget_the_gone();
    }
    // A key of POSIX rather than a Rust destructor: it runs after the C++ ones, and once more
    // if the thread uses the library again after that.
    static KEY: Kept<libc::pthread_key_t> = Kept::new();
    let key = match KEY.get() {
        Some(key) => *key,
        None => {
            let mut made = 0;
            // SAFETY: `made` is a valid place; the library is never unloaded.
            if unsafe { libc::pthread_key_create(&mut made, Some(forget)) } != 0 {
                return None;
            }
            let (key, is_ours) = KEY.keep(made);
            if !is_ours {
                // SAFETY: made above, and never used.
                unsafe { libc::pthread_key_delete(made) };
            }
            *key
        }
    };
    let thread = Box::into_raw(try_box(Thread {
        tally: Tally::new(),
        last: Cell::new(None),
        token: Cell::new(0),
        levels: Levels::new()?,
        legacy: Legacy::new(),
        birth: Birth::new(),
        ids: this_thread().map(AtomicI32::new),
    })?);
    // SAFETY: the box just made; it goes again only before anybody else has seen it.
    unsafe {
        // Two threads begin far apart.
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
