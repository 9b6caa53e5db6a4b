//! Locks made of pthread's, for ThreadSanitizer, which knows these, and for systems without futexes.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

pub(crate) struct Mutex<T> {
    raw: UnsafeCell<libc::pthread_mutex_t>,
    data: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches `data`: the thread that has locked `raw`.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: only the thread that has the lock reaches the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(data: T) -> Self {
        let raw = UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER);
        Mutex { raw, data: UnsafeCell::new(data) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: the mutex is initialized, and it is only ever used in a static.
        let result = unsafe { libc::pthread_mutex_lock(self.raw.get()) };
        assert_eq!(result, 0);
        MutexGuard(self)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mutex is locked while the guard lives.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is locked while the guard lives, and this is the only guard.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread has locked the mutex.
        unsafe { libc::pthread_mutex_unlock(self.0.raw.get()) };
    }
}

pub(crate) struct Condvar(UnsafeCell<libc::pthread_cond_t>);

// SAFETY: condition variables are made to be used by several threads.
unsafe impl Send for Condvar {}
// SAFETY: pthread's condition variables are for several threads at once.
unsafe impl Sync for Condvar {}

impl Condvar {
    pub(crate) const fn new() -> Self {
        Condvar(UnsafeCell::new(libc::PTHREAD_COND_INITIALIZER))
    }

    pub(crate) fn notify_all(&self) {
        // SAFETY: the condition variable is initialized, and it is only ever used in a static.
        unsafe { libc::pthread_cond_broadcast(self.0.get()) };
    }

    /// Sleeps until it is rung, or the time is over. May also return for nothing.
    pub(crate) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        let Some(time) = time else {
            // SAFETY: the guard shows that this thread has locked the mutex.
            unsafe { libc::pthread_cond_wait(self.0.get(), guard.0.raw.get()) };
            return guard;
        };
        // SAFETY: all zeroes are a valid `timespec`, the clock exists, and the guard shows that this thread has
        // locked the mutex.
        unsafe {
            let mut until: libc::timespec = core::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_REALTIME, &mut until);
            let nanoseconds = until.tv_nsec + libc::c_long::from(time.subsec_nanos());
            until.tv_sec += time.as_secs() as libc::time_t + nanoseconds / 1_000_000_000;
            until.tv_nsec = nanoseconds % 1_000_000_000;
            libc::pthread_cond_timedwait(self.0.get(), guard.0.raw.get(), &until);
        }
        guard
    }
}
