//! The gate of one interpreter: it counts the guards that are out, and says who may still take one.
//!
//! The code here is pure concurrency: nothing here knows about Python, so that a model checker can run it.
//!
//! A guard is *out* from the time when it is taken until it is given back. A gate is one word: the number of guards
//! that are out, above three bits of state. All changes are read-modify-write operations on that word, so they have
//! one order. All arguments below build on this order. While the gate is open, and only then, a thread may count a
//! hold in its own tally instead, if it gives the hold back itself: see `tally.rs`.

#[cfg(loom)]
use std::time::Instant;

use super::fence;
use super::stripe::BELOW_LIFE;
use super::tally::{Owner, Tally};
#[cfg(not(loom))]
use crate::support::clock::Instant;
use crate::support::sync::{lock, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering};

const STATE: usize = 0b111;
const ONE_GUARD: usize = 0b1000;

/// Anyone may take a guard.
const OPEN: usize = 0;
/// Finalization waits. Views are still honoured.
const GRACE: usize = 1;
/// Finalization waits, and the grace is over. Only holders may take more guards.
const HOLDERS_ONLY: usize = 2;
/// This state lasts only a moment. Finalization found no guard here, and looks at the other gates.
const SEALING: usize = 3;
/// Finalization may go on. Nobody may take a guard any more.
const CLOSED: usize = 4;

fn draining(honour_views: bool) -> usize {
    if honour_views {
        GRACE
    } else {
        HOLDERS_ONLY
    }
}

/// Why a thread may take a guard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The thread has the right of a view, which is honoured while the gate is open, and during the grace.
    View,
    /// The thread already keeps the interpreter from finalizing, so one more guard changes nothing.
    Holder,
}

/// The place where finalization waits for guards. The process has one lobby, because exits are rare, and because an
/// exit that covers several interpreters has to look at all their gates.
pub(crate) struct Lobby {
    lock: Mutex<()>,
    bell: Condvar,
}

impl Lobby {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Lobby { lock: Mutex::new(()), bell: Condvar::new() }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Lobby { lock: Mutex::new(()), bell: Condvar::new() }
    }

    pub(crate) fn enter(&self) -> MutexGuard<'_, ()> {
        lock(&self.lock)
    }

    /// Sleeps until a guard count may have fallen to zero, or until `deadline`.
    #[cfg(not(loom))]
    pub(crate) fn wait<'a>(
        &'a self,
        seat: MutexGuard<'a, ()>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, ()> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        self.bell.wait(seat, left)
    }

    /// The same in the model, which has no clock. A deadline would be only one more reason to wake.
    #[cfg(loom)]
    pub(crate) fn wait<'a>(
        &'a self,
        seat: MutexGuard<'a, ()>,
        _deadline: Option<Instant>,
    ) -> MutexGuard<'a, ()> {
        self.bell.wait(seat).unwrap()
    }

    /// Waits until the thread that seals the gates has decided. That thread holds the lobby's lock meanwhile.
    #[cold]
    fn pass(&self) {
        drop(self.enter());
    }

    #[cold]
    fn ring(&self) {
        // The lock is taken first. So a waiter either has not checked the counts yet, and will see the new ones, or
        // it is already asleep, and will hear the bell.
        drop(self.enter());
        self.bell.notify_all();
    }
}

/// The guard that was given back was not out: a handle was closed twice.
pub(crate) struct NotOut;

#[repr(transparent)]
pub(crate) struct Gate {
    word: AtomicUsize,
}

/// Corrects a count after a guard was given back that was not out.
#[cold]
fn not_out(count: &AtomicUsize) -> NotOut {
    // Relaxed: the count is as before, and nothing is published.
    count.fetch_add(ONE_GUARD, Ordering::Relaxed);
    NotOut
}

/// Returns how many guards are counted in the word of a gate or a stripe.
#[inline(always)]
pub(super) fn guards_in(word: &AtomicUsize) -> usize {
    // Acquire: pairs with `leave_at`.
    guards_of(word.load(Ordering::Acquire))
}

/// The same, of a value of the word. In the word of a stripe the life is above the count.
#[inline(always)]
fn guards_of(word: usize) -> usize {
    (word & BELOW_LIFE) / ONE_GUARD
}

/// Returns whether a guard that was counted when the word was `before` is counted in it. A word that has begun another life
/// does not have it: then the gate may be that of the next run of Python.
#[inline(always)]
#[allow(clippy::bad_bit_mask)] // where there are no stripes, no bits are a life's
fn is_counted(before: usize, word: usize) -> bool {
    (word ^ before) & !BELOW_LIFE == 0
}

impl Gate {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Gate { word: AtomicUsize::new(OPEN) }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Gate { word: AtomicUsize::new(OPEN) }
    }

    /// Takes a guard. Returns `false` if the gate refuses it.
    #[inline]
    pub(crate) fn enter(&self, claim: Claim, lobby: &Lobby) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            match word & STATE {
                OPEN | GRACE => {}
                HOLDERS_ONLY if claim == Claim::Holder => {}
                SEALING => {
                    lobby.pass();
                    word = self.word.load(Ordering::Relaxed);
                    continue;
                }
                _ => return false,
            }
            // Acquire: the thread must not look at what the guard protects before the guard is out.
            match self.word.compare_exchange_weak(
                word,
                word + ONE_GUARD,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
    }

    /// Gives a guard back.
    #[inline]
    pub(crate) fn leave(&self, lobby: &Lobby) -> Result<(), NotOut> {
        // Release: all that was done under the guard comes before finalization, which acquires this word when it
        // seals the gate.
        let before = self.word.fetch_sub(ONE_GUARD, Ordering::Release);
        if before < ONE_GUARD {
            return Err(not_out(&self.word));
        }
        // If the state was still OPEN, finalization had not begun to wait. Its first look at the count comes later
        // in the order of this word, so it needs no bell.
        if before & STATE != OPEN && before / ONE_GUARD == 1 {
            lobby.ring();
        }
        Ok(())
    }

    /// Takes a hold that the calling thread gives back itself, with [`Gate::leave_by`]. Returns `false` if the hold
    /// cannot be taken this way. Then [`Gate::enter`] decides.
    #[inline(always)]
    pub(crate) fn enter_by(&self, tally: &Tally, owner: Owner, lobby: &Lobby) -> bool {
        if !tally.add(owner) {
            return false;
        }
        fence::light();
        // Acquire: the thread must not look at what the hold protects before this load. Pairs with `reopen`.
        if self.word.load(Ordering::Acquire) & STATE == OPEN {
            return true;
        }
        // Finalization may have seen this hold in the tally, although it was refused, and may wait for it.
        tally.subtract();
        lobby.ring();
        false
    }

    /// Gives back a hold that [`Gate::enter_by`] took.
    #[inline]
    pub(crate) fn leave_by(&self, tally: &Tally, lobby: &Lobby) {
        tally.subtract();
        fence::light();
        // Relaxed: this only asks whether an exit waits. If the state is OPEN, the fence of a later exit comes
        // after this one, and its look at the tallies sees this change.
        if self.word.load(Ordering::Relaxed) & STATE != OPEN {
            lobby.ring();
        }
    }

    /// Takes a guard that is counted in `count`, the word of a stripe. Returns `false` if the gate is not open: then
    /// [`Gate::enter`] decides.
    #[inline(always)]
    pub(crate) fn enter_at(&self, count: &AtomicUsize, lobby: &Lobby) -> bool {
        // SeqCst, here and for the load: see `fence::meets_heavy`.
        let before = count.fetch_add(ONE_GUARD, Ordering::SeqCst);
        fence::meets_heavy();
        // SeqCst includes Acquire: the thread must not look at what the guard protects before this. It pairs with
        // `reopen`.
        // Relaxed: a thread that has seen the gate of the next run of Python sees the words of its life.
        if self.word.load(Ordering::SeqCst) & STATE == OPEN
            && is_counted(before, count.load(Ordering::Relaxed))
        {
            return true;
        }
        self.take_back(before, count, lobby);
        false
    }

    /// Undoes what [`Gate::enter_at`] has counted, when the word was `before`.
    #[cold]
    #[inline(never)]
    fn take_back(&self, before: usize, count: &AtomicUsize, lobby: &Lobby) {
        // Release: as in `leave_at`.
        let _ = count.fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
            is_counted(before, word).then(|| word - ONE_GUARD)
        });
        // Finalization may have seen this guard, and wait for it.
        lobby.ring();
    }

    /// Gives back a guard that is counted in `count`, the word of a stripe or of this gate.
    #[inline(always)]
    pub(crate) fn leave_at(&self, count: &AtomicUsize, lobby: &Lobby) -> Result<(), NotOut> {
        // SeqCst includes Release: all that was done under the guard comes before finalization, which acquires the
        // word when it looks at the count.
        if guards_of(count.fetch_sub(ONE_GUARD, Ordering::SeqCst)) == 0 {
            return Err(not_out(count));
        }
        fence::meets_heavy();
        // If the gate is still OPEN here, finalization looks at the counts later, and sees this one.
        if self.word.load(Ordering::SeqCst) & STATE != OPEN {
            lobby.ring();
        }
        Ok(())
    }

    /// The word, for the model.
    #[cfg(loom)]
    pub(super) fn word(&self) -> &AtomicUsize {
        &self.word
    }

    /// Returns how many guards are out, without those that are counted in tallies and on stripes.
    pub(crate) fn guards(&self) -> usize {
        self.word.load(Ordering::Relaxed) / ONE_GUARD
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: a closed gate stays closed, and protects nothing.
        self.word.load(Ordering::Relaxed) & STATE == CLOSED
    }

    /// Notes that finalization begins to wait, or that it no longer honours views. A closed gate stays as it is.
    pub(crate) fn drain(&self, honour_views: bool) {
        self.set_state(|state| (state != CLOSED).then_some(draining(honour_views)));
    }

    /// Keeps all threads out, if no guard is out. Returns whether the gate keeps them out, as a closed gate does in
    /// any case.
    fn seal(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE == CLOSED {
            return true;
        }
        // Acquire: finalization comes after all that was done under the guards that were given back. Pairs with
        // `leave`.
        word / ONE_GUARD == 0
            && self
                .word
                .compare_exchange(word, SEALING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    fn unseal(&self, honour_views: bool) {
        self.set_state(|state| (state == SEALING).then_some(draining(honour_views)));
    }

    /// Opens the gate for another interpreter in the place of this one, such as the main one after another
    /// `Py_Initialize`.
    pub(crate) fn reopen(&self) {
        self.word.store(OPEN, Ordering::Release);
    }

    /// Forgets the guards, in a forked child. They belonged to threads of the parent, or to what the parent had
    /// planned.
    pub(crate) fn forget_parent(&self) {
        let closed = self.is_closed();
        self.word.store(if closed { CLOSED } else { OPEN }, Ordering::Relaxed);
    }

    /// Closes the gate without a look at the count: the interpreter may be gone without having drained. It can give
    /// no more guards.
    pub(crate) fn condemn(&self) {
        self.set_state(|_| Some(CLOSED));
    }

    fn set_state(&self, next: impl Fn(usize) -> Option<usize>) {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Some(state) = next(word & STATE) {
            match self.word.compare_exchange_weak(
                word,
                word & !STATE | state,
                Ordering::Relaxed, // only the count carries meaning between threads
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }
}

/// Closes all `gates`, or none of them. It closes them only if no guard is out on any of them, and if `tallied`
/// finds no hold in a tally and no guard on a stripe. If it fails, it leaves all gates as [`Gate::drain`] leaves them.
///
/// `seat` is the lobby's lock. While it is held, a thread that meets a gate in its sealing state waits for the
/// outcome. So no thread is refused because of an attempt that failed.
pub(crate) fn close_together<'a>(
    gates: impl Iterator<Item = &'a Gate> + Clone,
    tallied: impl FnOnce() -> bool,
    honour_views: bool,
    _seat: &MutexGuard<'_, ()>,
) -> bool {
    let all_free = gates.clone().all(Gate::seal) && {
        // A thread that counts a hold after this sees the seal.
        fence::heavy();
        !tallied()
    };
    for gate in gates {
        if all_free {
            gate.condemn();
        } else {
            gate.unseal(honour_views);
        }
    }
    all_free
}

#[cfg(all(test, loom))]
#[path = "gate_model.rs"]
mod model;
