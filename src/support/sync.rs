//! Locks and atomics of the concurrent code, which a model checker or a race detector can replace.

#[cfg(not(loom))]
pub(crate) use crate::os::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::{
    atomic::{AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    Condvar, Mutex, MutexGuard,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let locked = mutex.lock();
    #[cfg(loom)]
    let locked = locked.unwrap();
    locked
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
