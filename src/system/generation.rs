//! Counts the forks between the process that loaded the library and this process.
//!
//! `fork.rs` knows what a forked child has to forget. Only `fork.rs` writes here.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::os;

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

/// The thread that is between the beginning and the end of a fork, or 0. Its handle stays the same in the child.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// Returns whether this thread is between the beginning and the end of a fork.
pub(crate) fn forks_here() -> bool {
    // Relaxed: only this thread writes its own handle, and no other thread has it meanwhile.
    FORKING.load(Ordering::Relaxed) == os::this_handle()
}

/// Is called by a thread that has the locks of `fork.rs`. So there is one such thread at a time.
pub(crate) fn set_forks_here(forks: bool) {
    FORKING.store(if forks { os::this_handle() } else { 0 }, Ordering::Relaxed);
}
