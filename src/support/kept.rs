//! A value that the first thread finds out, and that is kept for good.
//!
//! No thread waits for another thread. The child of a fork has only one thread. It would never stop waiting for a
//! thread that was finding out the value at the time of the fork. So two threads may find out the same value at once,
//! and both use what the first of them keeps. If something more is to be done only once, such as telling the user,
//! the thread whose value was kept does it.
//!
//! *The rule for the whole library*: something that is set up once is in a `Kept`, or it is an atomic that several
//! threads may set to the same value. Something that changes later is behind a lock that a fork holds (`fork.rs`).

use alloc::boxed::Box;
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceRef;

use crate::support::memory::try_box;

/// It is for statics only.
pub(crate) struct Kept<T: 'static> {
    kept: OnceRef<'static, T>,
    /// The room for the first value that comes, so that it needs no memory. A value that comes at the same time is on
    /// the heap.
    room: UnsafeCell<MaybeUninit<T>>,
    is_room_taken: AtomicBool,
}

// SAFETY: only the thread that takes the room writes to it, before it gives a shared reference to other threads. The
// value may be dropped by another thread than the one that made it.
unsafe impl<T: Send + Sync> Sync for Kept<T> {}

impl<T> Kept<T> {
    pub(crate) const fn new() -> Kept<T> {
        Kept {
            kept: OnceRef::new(),
            room: UnsafeCell::new(MaybeUninit::uninit()),
            is_room_taken: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&'static T> {
        self.kept.get()
    }

    pub(crate) fn get_or_keep(&'static self, find_out: impl FnOnce() -> T) -> &'static T {
        self.get().unwrap_or_else(|| self.keep(find_out()).0)
    }

    /// Keeps the value, if none is kept yet. Returns the value that is kept, and whether it is this one.
    #[cold]
    pub(crate) fn keep(&'static self, value: T) -> (&'static T, bool) {
        // Relaxed: no thread reads from the room because of this flag.
        if !self.is_room_taken.swap(true, Ordering::Relaxed) {
            // SAFETY: one thread comes here, once. So no other thread has a reference to the room, and the room is
            // still empty.
            let value = unsafe { &*(*self.room.get()).write(value) };
            return self.publish(value);
        }
        if let Some(kept) = self.get() {
            return (kept, false);
        }
        match try_box(value) {
            // The value is never freed. A value that is not kept is a few words, at most once for each thread that
            // came at once.
            Some(value) => self.publish(Box::leak(value)),
            None => alloc::alloc::handle_alloc_error(Layout::new::<T>()),
        }
    }

    fn publish(&self, value: &'static T) -> (&'static T, bool) {
        match self.kept.set(value) {
            Ok(()) => (value, true),
            Err(()) => (self.get().unwrap_or(value), false),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn all_threads_get_the_value_of_one() {
        const THREADS: usize = 8;
        for _ in 0..200 {
            let kept: &'static Kept<[usize; 4]> = Box::leak(Box::new(Kept::new()));
            let barrier = Barrier::new(THREADS);
            let keep = |number: usize| {
                barrier.wait();
                let (value, is_mine) = kept.keep([number; 4]);
                assert_eq!(*value == [number; 4], is_mine);
                (core::ptr::from_ref(value) as usize, is_mine)
            };
            let keep = &keep;
            let found: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..THREADS).map(|number| scope.spawn(move || keep(number))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(found.iter().all(|(address, _)| *address == found[0].0));
            assert_eq!(found.iter().filter(|(_, is_mine)| *is_mine).count(), 1);
        }
    }

    #[test]
    fn a_thread_that_stopped_half_way_is_not_waited_for() {
        static KEPT: Kept<String> = Kept::new();
        // Another thread took the room, and a fork did not copy that thread.
        KEPT.is_room_taken.store(true, Ordering::Relaxed);
        assert_eq!(KEPT.get_or_keep(|| "found".into()), "found");
        assert!(!KEPT.keep("again".into()).1);
    }
}
