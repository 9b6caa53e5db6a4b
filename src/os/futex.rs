//! Locks of one word each, which the system lets threads sleep on.
//!
//! Not pthread's: its condition variables count their waiters. A forked child has none of these threads, and may wait
//! for them.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

#[cfg(target_os = "linux")]
use super::linux::{sleep_on, wake};
#[cfg(windows)]
use super::windows::{sleep_on, wake};

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and a thread may sleep until it is free.
const AWAITED: u32 = 2;

/// How often a thread looks whether the lock is free before it sleeps.
const LOOKS: usize = 100;

pub(crate) struct Mutex<T> {
    word: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches `data`: the thread that has the lock.
unsafe impl<T: Send> Sync for Mutex<T> {}

pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(data: T) -> Self {
        Mutex { word: AtomicU32::new(FREE), data: UnsafeCell::new(data) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // Acquire, here and below: pairs with the Release of the thread that had the lock before.
        let free = self.word.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        if free.is_err() {
            self.wait();
        }
        MutexGuard(self)
    }

    #[cold]
    fn wait(&self) {
        for _ in 0..LOOKS {
            // Relaxed: the exchange below decides.
            if self.word.load(Ordering::Relaxed) != TAKEN {
                break;
            }
            core::hint::spin_loop();
        }
        // Whoever gets the lock here leaves it as awaited, because others may sleep too.
        while self.word.swap(AWAITED, Ordering::Acquire) != FREE {
            sleep_on(&self.word, AWAITED, None);
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard's thread has the lock.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's thread has the lock, and this is the only guard.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // Release: what this thread did with the value comes before what the next one does.
        if self.0.word.swap(FREE, Ordering::Release) == AWAITED {
            wake(&self.0.word, 1);
        }
    }
}

/// The number of times that it was rung.
pub(crate) struct Condvar(AtomicU32);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Condvar(AtomicU32::new(0))
    }

    pub(crate) fn notify_all(&self) {
        // Relaxed: what the waiters look at is behind their mutex.
        self.0.fetch_add(1, Ordering::Relaxed);
        wake(&self.0, i32::MAX);
    }

    /// Sleeps until it is rung, or the time is over. May also return for nothing.
    pub(crate) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        // Relaxed: read while the mutex is locked. Who rings it after that makes the kernel return at once.
        let rung = self.0.load(Ordering::Relaxed);
        let mutex = guard.0;
        drop(guard);
        sleep_on(&self.0, rung, time);
        mutex.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_has_the_lock() {
        const TIMES: usize = 20_000;
        static COUNT: Mutex<usize> = Mutex::new(0);
        let count = || {
            for _ in 0..TIMES {
                let mut count = COUNT.lock();
                let before = *count;
                // Another thread comes in between, if the lock lets it.
                std::thread::yield_now();
                *count = before + 1;
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(count))));
        assert_eq!(*COUNT.lock(), 4 * TIMES);
        assert_eq!(COUNT.word.load(Ordering::Relaxed), FREE);
    }

    #[test]
    fn a_bell_wakes_all_who_wait() {
        /// How many wait, and whether it is open.
        static DOOR: Mutex<[usize; 2]> = Mutex::new([0, 0]);
        static BELL: Condvar = Condvar::new();
        let wait = || {
            let mut door = DOOR.lock();
            door[0] += 1;
            while door[1] == 0 {
                door = BELL.wait(door, None);
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(wait)));
            while DOOR.lock()[0] < 4 {
                std::thread::yield_now();
            }
            DOOR.lock()[1] = 1;
            BELL.notify_all();
        });
    }

    #[test]
    fn a_wait_ends_in_time() {
        static LOCK: Mutex<()> = Mutex::new(());
        let begun = std::time::Instant::now();
        let time = Duration::from_millis(30);
        let mut guard = LOCK.lock();
        while begun.elapsed() < time {
            guard = Condvar::new().wait(guard, Some(time));
        }
        drop(guard);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
