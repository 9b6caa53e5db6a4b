//! The primitives of the concurrent code, so that those of a model checker, or of a race detector, can
//! take their place.

#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    Condvar, Mutex, MutexGuard,
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(any(loom, pep788_pthread_locks)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

// `--cfg pep788_pthread_locks`, for `make sanitize`.
#[cfg(pep788_pthread_locks)]
#[path = "sync_pthread.rs"]
mod pthread;
#[cfg(pep788_pthread_locks)]
pub(crate) use pthread::{Condvar, Mutex, MutexGuard};

/// Locks; a poisoned lock is an ordinary one, because panics end the process.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A constructor that statics can use; the model checker's cannot be `const`.
macro_rules! const_fn {
    ($visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(loom))]
        $visibility const fn $($rest)*

        #[cfg(loom)]
        $visibility fn $($rest)*
    };
}
pub(crate) use const_fn;
