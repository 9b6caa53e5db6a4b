//! Guards counted apart: threads that take and close guards at once do not fight for one word.
//!
//! A guard may be closed by any thread, so its count is changed by atomic read-modify-write operations. If all threads
//! changed the word of the gate, they would take turns at it. So each interpreter has more words, its *stripes*, each in
//! cache lines of its own. A thread takes its guards on one stripe, and the guard's handle says which one (`capi/handle.rs`).
//! So the thread that closes the guard finds the same stripe, and a guard that is closed twice is seen at once.
//!
//! The state of the gate is only in the gate's own word. So a thread that takes a guard on a stripe counts it first, and then
//! looks at the gate. Finalization changes the gate first, and then looks at the counts. Both make a fence in between, so at
//! least one of them sees the other, as with tallies (`tally.rs`).

use crate::support::sync::{const_fn, AtomicUsize, Ordering};

/// How many stripes an interpreter has. They are numbered from 1; number 0 means the word of the gate. A handle of 32 bits has no
/// room for the number, so there is none: the gate counts all guards.
pub(crate) const STRIPES: usize = if cfg!(target_pointer_width = "64") { 7 } else { 0 };

/// Where the word of a stripe has the life.
const LIFE_SHIFT: u32 = usize::BITS - 16;

/// The bits of a word, of a stripe or of a gate, that are not the life's. 45 of them are the count, which is room enough.
pub(super) const BELOW_LIFE: usize = if STRIPES == 0 { usize::MAX } else { (1 << LIFE_SHIFT) - 1 };

/// Two cache lines, as processors fetch them in pairs. Laid out like the beginning of a `Record`, where the gate's own word is.
#[repr(C, align(128))]
pub(crate) struct Stripe {
    _before: [usize; 3],
    /// The count, in the units of the gate's word, whose state bits are always 0 here. Above [`LIFE_SHIFT`] is the life
    /// of the record that the guards are of.
    pub(super) word: AtomicUsize,
}

impl Stripe {
    const_fn! {
        pub(crate) fn new() -> Stripe {
            Stripe { _before: [0; 3], word: AtomicUsize::new(0) }
        }
    }

    /// Begins to count in this life of the record. The guards before were those of another interpreter, or of the parent
    /// of a forked child. A thread that was about to take a guard sees by the life that it was forgotten.
    pub(crate) fn begin(&self, life: usize) {
        // Relaxed: published with the gate.
        self.word.store(life << LIFE_SHIFT, Ordering::Relaxed);
    }
}
