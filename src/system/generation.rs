//! Counts the forks between the process that loaded the library and this process.
//!
//! `fork.rs` knows what a forked child has to forget. Only `fork.rs` writes here.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

static GENERATION: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(crate) fn generation() -> usize {
    // Relaxed: the number changes only in a child that has a single thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Counts one more fork. Is called in the forked child.
pub(crate) fn begin_another() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

thread_local! {
    /// It has no destructor, so that a thread may fork while it ends.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is between the beginning and the end of a fork.
pub(crate) fn forks_here() -> bool {
    FORKS.get()
}

pub(crate) fn set_forks_here(forks: bool) {
    FORKS.set(forks);
}
