//! Locks and atomics of the concurrent code, which a model checker or a race detector can replace.

#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    Condvar, Mutex, MutexGuard,
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(any(loom, pep788_pthread_locks)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

// This is for `--cfg pep788_pthread_locks`, which `make sanitize` uses.
#[cfg(pep788_pthread_locks)]
#[path = "sync_pthread.rs"]
mod pthread;
#[cfg(pep788_pthread_locks)]
pub(crate) use pthread::{Condvar, Mutex, MutexGuard};

/// Locks a mutex. A poisoned lock is an ordinary one, because panics end the process.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Makes a constructor that statics can use. The constructors of the model checker's types cannot be `const`.
macro_rules! const_fn {
    ($visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(loom))]
        $visibility const fn $($rest)*

        #[cfg(loom)]
        $visibility fn $($rest)*
    };
}
pub(crate) use const_fn;
