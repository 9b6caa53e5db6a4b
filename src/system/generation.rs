//! Which process this is: how many forks lie between it and the one that loaded the library.
//!
//! What a forked child has to forget is in `fork.rs`, which alone writes here.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

static GENERATION: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(crate) fn generation() -> usize {
    // Relaxed: changes only in a child that has a single thread.
    GENERATION.load(Ordering::Relaxed)
}

/// In a forked child.
pub(crate) fn begin_another() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

thread_local! {
    /// Without a destructor, so that a thread may fork while it ends.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is between the two ends of a fork.
pub(crate) fn forks_here() -> bool {
    FORKS.get()
}

pub(crate) fn set_forks_here(forks: bool) {
    FORKS.set(forks);
}
