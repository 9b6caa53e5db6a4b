//! The door of one interpreter: how many guards are out, and who may still take one.
//!
//! Pure concurrency: nothing here knows about Python, so that a model checker can own it.
//!
//! A gate is one word: the number of guards above three bits of state. All changes are
//! read-modify-write operations on that word, so they have one order, and everything below is
//! argued from it. Only while the gate is open, a thread may instead count by itself what it will
//! give back by itself: see `tally.rs`.

use std::time::Instant;

use super::fence;
use super::tally::{Owner, Tally};
use crate::support::sync::{lock, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering};

const STATE: usize = 0b111;
const ONE_GUARD: usize = 0b1000;

/// Anyone may take a guard.
const OPEN: usize = 0;
/// Finalization waits; views are still honoured.
const GRACE: usize = 1;
/// Finalization waits, and the grace is over: only holders may take more.
const HOLDERS_ONLY: usize = 2;
/// For a moment: finalization found no guard here and is looking at the other gates.
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

/// On what ground a guard is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A view: honoured while the gate is open, and during the grace.
    View,
    /// The caller already keeps the interpreter from finalizing, so one more changes nothing.
    Holder,
}

/// Where finalization waits for guards. One for the process: exits are rare, and one that
/// covers several interpreters has to look at all their gates.
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
        let recover = std::sync::PoisonError::into_inner;
        match deadline {
            None => self.bell.wait(seat).unwrap_or_else(recover),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.bell.wait_timeout(seat, left).map_or_else(|e| e.into_inner().0, |r| r.0)
            }
        }
    }

    /// The model has no clock: a deadline is one more reason to wake.
    #[cfg(loom)]
    pub(crate) fn wait<'a>(
        &'a self,
        seat: MutexGuard<'a, ()>,
        _deadline: Option<Instant>,
    ) -> MutexGuard<'a, ()> {
        self.bell.wait(seat).unwrap()
    }

    /// Waits until whoever seals, and holds the lobby's lock for it, has decided.
    #[cold]
    fn pass(&self) {
        drop(self.enter());
    }

    #[cold]
    fn ring(&self) {
        // Taking the lock first means that a waiter is either still before its check of the
        // counts, and will see them, or already asleep, and will hear the bell.
        drop(self.enter());
        self.bell.notify_all();
    }
}

/// The guard given back was not out: a handle was closed twice.
pub(crate) struct NotOut;

pub(crate) struct Gate {
    word: AtomicUsize,
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

    /// Takes a guard. `false`: refused.
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
            // Acquire: what the guard protects must not be looked at before the guard is out.
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
        // Release: all that was done under the guard comes before finalization, which
        // acquires this word when it seals it.
        let before = self.word.fetch_sub(ONE_GUARD, Ordering::Release);
        if before < ONE_GUARD {
            self.word.fetch_add(ONE_GUARD, Ordering::Relaxed);
            return Err(NotOut);
        }
        // If the state was still OPEN, finalization had not begun to wait: its first look at
        // the count comes later in the order of this word and needs no bell.
        if before & STATE != OPEN && before / ONE_GUARD == 1 {
            lobby.ring();
        }
        Ok(())
    }

    /// Takes a hold that the calling thread gives back itself, with [`Gate::leave_by`]. `false`: not
    /// this way, see [`Gate::enter`].
    #[inline(always)]
    pub(crate) fn enter_by(&self, tally: &Tally, owner: Owner, lobby: &Lobby) -> bool {
        if !tally.add(owner) {
            return false;
        }
        fence::light();
        // Acquire: what the hold protects must not be looked at before; pairs with `reopen`.
        if self.word.load(Ordering::Acquire) & STATE == OPEN {
            return true;
        }
        // Finalization may have seen the hold that was none.
        tally.subtract();
        lobby.ring();
        false
    }

    /// Gives back a hold of [`Gate::enter_by`].
    #[inline]
    pub(crate) fn leave_by(&self, tally: &Tally, lobby: &Lobby) {
        tally.subtract();
        fence::light();
        // Relaxed: only whether somebody waits. OPEN: then the fence of whoever will comes later,
        // and its look at the tallies sees this one.
        if self.word.load(Ordering::Relaxed) & STATE != OPEN {
            lobby.ring();
        }
    }

    /// How many guards are out, less those in tallies.
    pub(crate) fn guards(&self) -> usize {
        self.word.load(Ordering::Relaxed) / ONE_GUARD
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: a closed gate stays closed, and protects nothing.
        self.word.load(Ordering::Relaxed) & STATE == CLOSED
    }

    /// Finalization begins to wait, or stops to honour views. A closed gate stays as it is.
    pub(crate) fn drain(&self, honour_views: bool) {
        self.set_state(|state| (state != CLOSED).then_some(draining(honour_views)));
    }

    /// Holds everybody off, if no guard is out. A closed gate needs no holding off.
    fn seal(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE == CLOSED {
            return true;
        }
        // Acquire: finalization comes after all that was done under the guards given back.
        word / ONE_GUARD == 0
            && self
                .word
                .compare_exchange(word, SEALING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    fn unseal(&self, honour_views: bool) {
        self.set_state(|state| (state == SEALING).then_some(draining(honour_views)));
    }

    /// Another interpreter took this one's place: the main one, after `Py_Initialize`.
    pub(crate) fn reopen(&self) {
        self.word.store(OPEN, Ordering::Release);
    }

    /// In a forked child: the guards belonged to threads, or to plans, of the parent.
    pub(crate) fn forget_parent(&self) {
        let closed = self.is_closed();
        self.word.store(if closed { CLOSED } else { OPEN }, Ordering::Relaxed);
    }

    /// The interpreter is gone without having drained; nothing more can be given.
    pub(crate) fn condemn(&self) {
        self.set_state(|_| Some(CLOSED));
    }

    fn set_state(&self, next: impl Fn(usize) -> Option<usize>) {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Some(state) = next(word & STATE) {
            match self.word.compare_exchange_weak(
                word,
                word & !STATE | state,
                Ordering::Relaxed, // the count is what carries meaning between threads
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }
}

/// Closes all `gates`, or none: only when no guard is out on any of them, nor `tallied` for one.
/// Where it fails, all are left as [`Gate::drain`] leaves them.
///
/// `seat` is the lobby's lock. While it is held, whoever meets a gate in its sealing state
/// waits for the outcome, so nobody is refused on account of an attempt that failed.
pub(crate) fn close_together<'a>(
    gates: impl Iterator<Item = &'a Gate> + Clone,
    tallied: impl FnOnce() -> bool,
    honour_views: bool,
    _seat: &MutexGuard<'_, ()>,
) -> bool {
    let all_free = gates.clone().all(Gate::seal) && {
        // Whoever counts a hold after this sees the seal.
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
