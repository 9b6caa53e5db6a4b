//! What the library knows of one thread, from its first Ensure to its end.

use alloc::boxed::Box;
use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::birth::Birth;
use super::hold::Hold;
use super::kept_state::KeptState;
use super::legacy::Legacy;
use super::levels::Levels;
use crate::gate::gate::NotOut;
use crate::gate::record::Record;
use crate::gate::stripe::STRIPES;
use crate::gate::tally::{Tally, ROLL};
use crate::os::{self, words};
use crate::python::Found;
use crate::support::memory::try_box;

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

impl Thread {
    /// Returns this thread, if the library knows it already.
    ///
    /// Only this thread may use the reference, and it must not keep the reference: any call into Python or the
    /// loader may forget the thread.
    #[inline]
    pub(crate) fn known() -> Option<&'static Thread> {
        // SAFETY: the word is NULL, or the box that `enroll` made for this thread. `forget` frees it only when the
        // thread ends.
        unsafe { words::own().cast::<Thread>().as_ref() }
    }

    /// Returns this thread, or `None` if there is no memory.
    #[inline]
    pub(crate) fn this() -> Option<&'static Thread> {
        Thread::known().or_else(enroll)
    }

    /// Forgets the calling thread, which is ended without its destructors (`exit/late.rs`). Nothing of it is used
    /// any more.
    pub(crate) fn forget_this() {
        let thread = words::own();
        if !thread.is_null() {
            // SAFETY: this is the box that `enroll` made. The frames that have a reference to it never go on.
            unsafe { forget(thread) };
        }
    }

    /// Notes the thread's new numbers, in a forked child.
    pub(crate) fn forget_parent(&self) {
        for (known, now) in self.ids.iter().zip(os::this_ids()) {
            // Relaxed: this is the child's only thread.
            known.store(now, Ordering::Relaxed);
        }
    }

    /// Returns whether the thread's process does not have the thread any more.
    fn is_gone(&self) -> bool {
        let [process, id] = [&self.ids[0], &self.ids[1]].map(|id| id.load(Ordering::Relaxed));
        os::is_gone([process, id])
    }

    /// Returns a token for an Ensure. It is odd, so it is not NULL. Two Ensures of a thread do not have the same token. Two
    /// threads usually do not have the same tokens either.
    #[inline(always)]
    pub(crate) fn next_token(&self) -> usize {
        let token = self.token.get().wrapping_add(2);
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
        let thread: *const Thread = core::ptr::with_exposed_provenance(whole);
        // SAFETY: the thread is on the roll, whose lock is held. It is taken off the roll before it is freed.
        is_it(unsafe { &*thread })
    })
}

/// The thread ends.
unsafe extern "C" fn end(thread: *mut c_void) {
    // SAFETY: this is the box that `enroll` made for this thread, which is its own until `forget`.
    unsafe {
        // On macOS the word may be gone before.
        words::set_own(thread);
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
        words::set_own(core::ptr::null_mut());
        ROLL.remove(&(*thread).tally);
        drop(Box::from_raw(thread));
    }
}

/// Forgets threads whose end the library was not told of, and gives back what they held. Such a thread ended by a
/// bare system call. Or it used the library once more after the C library had called all destructors, which it does
/// four times at most.
///
/// The kernel uses a number again. So a thread that ended may be taken for another thread, which is there. It is
/// found when that thread has ended too.
#[cold]
pub(crate) fn forget_the_gone() {
    let own = words::own();
    let is_gone = |whole: usize| {
        let thread: *const Thread = core::ptr::with_exposed_provenance(whole);
        // The calling thread is never gone. If the library was not told of a fork, its numbers in the child are
        // those of the parent.
        // SAFETY: the thread is on the roll, whose lock is held. It is taken off the roll before it is freed.
        !core::ptr::eq(thread, own.cast()) && unsafe { &*thread }.is_gone()
    };
    while let Some(whole) = ROLL.take(is_gone) {
        let thread: *mut Thread = core::ptr::with_exposed_provenance_mut(whole);
        // SAFETY: this is the box that `enroll` made. Its thread has ended, and no other thread finds it. So this
        // thread acts for the ended one, and for itself again afterwards.
        unsafe {
            words::set_own(thread.cast());
            forget(thread.cast());
            words::set_own(own);
        }
    }
}

/// Returns the number of the stripe for a new thread, and its first token but one.
fn next_stripe_and_token() -> (usize, usize) {
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number, with which nothing is published.
    let number = BEGUN.fetch_add(1, Ordering::Relaxed);
    // Threads that begin one after the other get different stripes, if there are stripes. In reverse, the numbers of however many
    // threads are as far apart as so many numbers can be.
    (number.checked_rem(STRIPES).map_or(0, |stripe| 1 + stripe), number.reverse_bits() | 1)
}

#[cold]
fn enroll() -> Option<&'static Thread> {
    // This looks at every thread, so it is done only each time that their number doubles.
    if ROLL.is_full() {
        forget_the_gone();
    }
    let (stripe, token) = next_stripe_and_token();
    let thread = Box::into_raw(try_box(Thread {
        tally: Tally::new(),
        last: Cell::new(None),
        found: Found::new(core::ptr::null_mut()),
        watched: Cell::new(0),
        stripe,
        token: Cell::new(token),
        levels: Levels::new()?,
        legacy: Legacy::new(),
        birth: Birth::new(),
        kept: KeptState::new(),
        ids: os::this_ids().map(AtomicI32::new),
    })?);
    // SAFETY: this is the box that was made above. It is freed here only before another thread has seen it.
    unsafe {
        if !os::at_thread_end(thread.cast(), end) {
            drop(Box::from_raw(thread));
            return None;
        }
        if !ROLL.add(&(*thread).tally, thread.expose_provenance()) {
            os::at_thread_end(core::ptr::null_mut(), end);
            drop(Box::from_raw(thread));
            return None;
        }
        words::set_own(thread.cast());
        Some(&*thread)
    }
}
