//! Counts holds in a word of each thread's own, if the thread that takes a hold also gives it back.
//!
//! To take a guard is a read-modify-write operation on its gate's word, which all threads share. An Ensure that
//! holds its interpreter ends in its own thread. So it needs only a store to a word of that thread, its *tally*,
//! and a look at the gate. Finalization is rare, so it pays the price: it changes the gate, makes all threads see
//! that ([`fence::heavy`](crate::gate::fence::heavy)), and adds the tallies up.
//!
//! A thread that takes a hold counts it, makes a fence, and looks at the gate. An exit that closes the gate changes
//! the gate, makes a fence, and looks at the counts. One of the two fences comes second, and the look after it sees
//! what was written before the other fence. So no hold is missed by both sides.

use alloc::vec::Vec;

use crate::support::sync::{lock, AtomicUsize, Mutex, MutexGuard, Ordering};

/// The low bits of a tally are the count. Above them is the [`Owner`].
const COUNT: usize = 0b1_1111;
const GILSTATE: usize = 1 << 5;
const LIFE_SHIFT: u32 = 6;
const LIVES: usize = 16;

/// Whose holds a tally counts: a record, and its life, which says which of its interpreters it is (modulo 16).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(usize);

impl Owner {
    /// Makes the owner of a record's address and life. `address` has its low ten bits free.
    #[inline]
    pub(crate) fn new(address: usize, life: usize) -> Owner {
        Owner(address | (life % LIVES) << LIFE_SHIFT)
    }

    /// Returns the owner of the same interpreter for holds of `PyGILState_Ensure`. The exit waits for these by
    /// other rules.
    #[inline]
    pub(crate) fn of_gilstate(self) -> Owner {
        Owner(self.0 | GILSTATE)
    }
}

/// The holds of one thread on one interpreter: the owner, and how many there are. Only that thread writes the word.
pub(crate) struct Tally {
    word: AtomicUsize,
    /// The place of this tally in the [`Roll`]. It changes under the roll's lock.
    place: AtomicUsize,
    /// The address of the object that the tally is a part of, for the caller of [`Roll::take`].
    whole: AtomicUsize,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { word: AtomicUsize::new(0), place: AtomicUsize::new(0), whole: AtomicUsize::new(0) }
    }

    /// Counts one more hold for `owner`. Returns `false` if the word is in use for another owner, or full.
    #[inline]
    pub(crate) fn add(&self, owner: Owner) -> bool {
        // Relaxed: this is the thread's own word.
        let word = self.word.load(Ordering::Relaxed);
        let next = if word & COUNT == 0 {
            owner.0 | 1
        } else if word & !COUNT == owner.0 && word & COUNT != COUNT {
            word + 1
        } else {
            return false;
        };
        // Relaxed: the fence that follows orders this store.
        self.word.store(next, Ordering::Relaxed);
        true
    }

    #[inline]
    pub(crate) fn subtract(&self) {
        let word = self.word.load(Ordering::Relaxed);
        debug_assert!(word & COUNT != 0);
        // Release: all that was done under the hold comes before finalization, which acquires this word when it
        // looks at the tally (`of`).
        self.word.store(word - 1, Ordering::Release);
    }

    /// Returns how many holds of `owner` this tally counts.
    pub(crate) fn of(&self, owner: Owner) -> usize {
        // Acquire: pairs with `subtract`.
        let word = self.word.load(Ordering::Acquire);
        if word & !COUNT == owner.0 {
            word & COUNT
        } else {
            0
        }
    }

    /// Forgets the holds, in a forked child. What the parent's thread held is held in the parent only.
    pub(crate) fn forget_parent(&self) {
        self.word.store(0, Ordering::Relaxed);
    }
}

/// The tallies of all threads that have one.
pub(crate) struct Roll {
    all: Mutex<Vec<&'static Tally>>,
}

#[cfg(not(loom))]
pub(crate) static ROLL: Roll = Roll { all: Mutex::new(Vec::new()) };

impl Roll {
    /// Adds a tally. `whole` is the address of the object that it is a part of. Returns `false` if there is no
    /// memory.
    pub(crate) fn add(&self, tally: &'static Tally, whole: usize) -> bool {
        let mut all = self.lock();
        if all.try_reserve(1).is_err() {
            return false;
        }
        // Relaxed: both stores are made under the lock.
        tally.whole.store(whole, Ordering::Relaxed);
        tally.place.store(all.len(), Ordering::Relaxed);
        all.push(tally);
        true
    }

    pub(crate) fn remove(&self, tally: &'static Tally) {
        let mut all = self.lock();
        let place = tally.place.load(Ordering::Relaxed);
        if all.get(place).is_some_and(|there| core::ptr::eq(*there, tally)) {
            Roll::take_off(&mut all, place);
        }
    }

    fn take_off(all: &mut Vec<&'static Tally>, place: usize) -> &'static Tally {
        let taken = all.swap_remove(place);
        if let Some(moved) = all.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        taken
    }

    /// Returns whether `is_it` is true for a tally. `is_it` is given the address of the object that the tally is a
    /// part of.
    pub(crate) fn any(&self, is_it: impl Fn(usize) -> bool) -> bool {
        // Relaxed: the load is made under the lock.
        self.lock().iter().any(|tally| is_it(tally.whole.load(Ordering::Relaxed)))
    }

    /// Takes a tally for which `is_it` is true off the roll. `is_it` is given the address of the object that the
    /// tally is a part of. Returns that address.
    pub(crate) fn take(&self, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mut all = self.lock();
        let whole = |tally: &Tally| tally.whole.load(Ordering::Relaxed);
        let place = all.iter().position(|tally| is_it(whole(tally)))?;
        Some(whole(Roll::take_off(&mut all, place)))
    }

    /// Returns whether one more tally would need new memory.
    pub(crate) fn is_full(&self) -> bool {
        let all = self.lock();
        all.len() == all.capacity()
    }

    /// Returns how many holds of `owner` all threads count. A caller that must not miss any has to make a heavy
    /// fence first, after it has closed the way to more holds.
    pub(crate) fn sum(&self, owner: Owner) -> usize {
        self.lock().iter().map(|tally| tally.of(owner)).sum()
    }

    /// Forgets the parent's threads, in a forked child. `own` is the tally of the only thread there.
    pub(crate) fn forget_parent(all: &mut Vec<&'static Tally>, own: Option<&'static Tally>) {
        all.clear();
        if let Some(own) = own {
            own.forget_parent();
            own.place.store(0, Ordering::Relaxed);
            // `own` was in the list, so there is room for it.
            all.push(own);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<&'static Tally>> {
        lock(&self.all)
    }
}
