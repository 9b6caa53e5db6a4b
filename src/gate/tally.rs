//! Holds that a thread counts by itself, where one thread both takes and gives back.
//!
//! A guard is a read-modify-write on its gate's word, which all threads share. An Ensure that
//! holds its interpreter ends in its own thread, so it needs no more than a store to a word of
//! that thread's, its *tally*, and a look at the gate. Finalization, which is rare, pays for it:
//! it changes the gate, makes all threads see that ([`fence::heavy`](crate::gate::fence::heavy)), and adds the tallies up.
//!
//! Taking: count, fence, look at the gate. Closing: change the gate, fence, look at the counts.
//! Whichever of two such fences comes second, the look after it sees what was written before the
//! other: no hold is missed by both sides.

use crate::support::sync::{lock, AtomicUsize, Mutex, MutexGuard, Ordering};

/// The low bits of a tally; above them is the [`Owner`].
const COUNT: usize = 0b11_1111;
const LIFE_SHIFT: u32 = 6;
const LIVES: usize = 16;
/// The highest bit. No address of a program has it where there is a seatbelt.
const GILSTATE: usize = 1 << (usize::BITS - 1);

/// Whose holds a tally counts: a record, and which of the interpreters that had it (modulo 16).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(usize);

impl Owner {
    /// `address` has its low ten bits free.
    #[inline]
    pub(crate) fn new(address: usize, life: usize) -> Owner {
        Owner(address | (life % LIVES) << LIFE_SHIFT)
    }

    /// Of the same interpreter, for the holds of `PyGILState_Ensure`, which the exit waits for on other terms.
    #[inline]
    pub(crate) fn of_gilstate(self) -> Owner {
        Owner(self.0 | GILSTATE)
    }
}

/// One thread's holds on one interpreter: whose they are, and how many. Only its thread writes it.
pub(crate) struct Tally {
    word: AtomicUsize,
    /// Where [`Roll`] has it; changed under the roll's lock.
    place: AtomicUsize,
    /// What it is a part of, as an address; for who takes it off the roll.
    whole: AtomicUsize,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { word: AtomicUsize::new(0), place: AtomicUsize::new(0), whole: AtomicUsize::new(0) }
    }

    /// One more for `owner`. `false`: the word is in use for another one, or full.
    #[inline]
    pub(crate) fn add(&self, owner: Owner) -> bool {
        // Relaxed: this thread's own word.
        let word = self.word.load(Ordering::Relaxed);
        let next = if word & COUNT == 0 {
            owner.0 | 1
        } else if word & !COUNT == owner.0 && word & COUNT != COUNT {
            word + 1
        } else {
            return false;
        };
        // Relaxed: the fence that follows orders it.
        self.word.store(next, Ordering::Relaxed);
        true
    }

    #[inline]
    pub(crate) fn subtract(&self) {
        let word = self.word.load(Ordering::Relaxed);
        debug_assert!(word & COUNT != 0);
        // Release: all that was done under the hold comes before finalization, which acquires
        // this word when it looks at it.
        self.word.store(word - 1, Ordering::Release);
    }

    /// How many holds of `owner` it counts.
    pub(crate) fn of(&self, owner: Owner) -> usize {
        // Acquire: pairs with `subtract`.
        let word = self.word.load(Ordering::Acquire);
        if word & !COUNT == owner.0 {
            word & COUNT
        } else {
            0
        }
    }

    /// In a forked child: what the parent's thread held is held in the parent.
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
    /// `whole` is the address of what the tally is a part of. `false`: out of memory.
    pub(crate) fn add(&self, tally: &'static Tally, whole: usize) -> bool {
        let mut all = self.lock();
        if all.try_reserve(1).is_err() {
            return false;
        }
        // Relaxed, as the place: under the lock.
        tally.whole.store(whole, Ordering::Relaxed);
        tally.place.store(all.len(), Ordering::Relaxed);
        all.push(tally);
        true
    }

    pub(crate) fn remove(&self, tally: &'static Tally) {
        let mut all = self.lock();
        let place = tally.place.load(Ordering::Relaxed);
        if all.get(place).is_some_and(|there| std::ptr::eq(*there, tally)) {
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

    /// Whether `is_it` says so of one, which is given the address of what a tally is a part of.
    pub(crate) fn any(&self, is_it: impl Fn(usize) -> bool) -> bool {
        // Relaxed: under the lock.
        self.lock().iter().any(|tally| is_it(tally.whole.load(Ordering::Relaxed)))
    }

    /// Takes one off that `is_it` says so of, which is given the address of what a tally is a part of. Gives that address.
    pub(crate) fn take(&self, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mut all = self.lock();
        let whole = |tally: &Tally| tally.whole.load(Ordering::Relaxed);
        let place = all.iter().position(|tally| is_it(whole(tally)))?;
        Some(whole(Roll::take_off(&mut all, place)))
    }

    /// Whether one more needs memory.
    pub(crate) fn is_full(&self) -> bool {
        let all = self.lock();
        all.len() == all.capacity()
    }

    /// How many holds of `owner` all threads count. A caller that wants to miss none has made a
    /// heavy fence since it closed the way to more.
    pub(crate) fn sum(&self, owner: Owner) -> usize {
        self.lock().iter().map(|tally| tally.of(owner)).sum()
    }

    /// In a forked child, the only thread there is: `own` is its tally.
    pub(crate) fn forget_parent(all: &mut Vec<&'static Tally>, own: Option<&'static Tally>) {
        all.clear();
        if let Some(own) = own {
            own.forget_parent();
            own.place.store(0, Ordering::Relaxed);
            // It was in the list, so there is room for it.
            all.push(own);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<&'static Tally>> {
        lock(&self.all)
    }
}
