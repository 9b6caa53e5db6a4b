//! The ways of Ensure and Release, from the shortest to the one that asks everything.
//!
//! All but the last need a [`Glance`]: an earlier call has found that CPython's structures are as expected. They differ in how
//! they see what is attached to the calling thread, and each hands on to the next where it cannot see it:
//!
//! ```text
//! take        `attached_word`      one instruction            from 3.12 on, where CPython's variable is in static storage
//!   by_holder `holder`             two words of CPython's     up to 3.11: nobody holds the GIL, so nothing is attached
//!     by_call `Glance::attached`   one call of a function     any version
//!       any                        long                       the first call; a mistake; tracing; 3.15's own functions
//! ```
//!
//! Each is a function of its own, and its call is the last thing that the one before does: so that one saves no registers. It was
//! measured: with one function that asks in turn, an attached pair takes 83 instructions instead of 68.

use crate::python::{attached_word, holder, Glance, PyThreadState};

/// A call that takes these ways.
pub(super) trait Call {
    type Result;

    /// Whether [`Call::seeing`] may be told of whoever holds the GIL, up to 3.11: a thread state of another thread, too.
    const TAKES_ANY_HOLDER: bool = false;

    /// The short way. Where it does not suffice it goes on with [`Call::any`].
    ///
    /// # Safety
    /// There is a [`Glance`]. `current` is attached to this thread, and known to `PyGILState`; or NULL, and nothing is
    /// attached. See also [`Call::TAKES_ANY_HOLDER`].
    unsafe fn seeing(current: *mut PyThreadState, argument: usize) -> Self::Result;

    /// The long way.
    fn any(argument: usize) -> Self::Result;
}

#[inline(always)]
pub(super) fn take<C: Call>(argument: usize) -> C::Result {
    match attached_word() {
        // SAFETY: then there is a glance.
        Some(current) => unsafe { C::seeing(current, argument) },
        None => by_holder::<C>(argument),
    }
}

#[inline(never)]
fn by_holder<C: Call>(argument: usize) -> C::Result {
    match holder() {
        // SAFETY: then there is a glance. Where nobody holds the GIL, nothing is attached.
        Some(holder) if C::TAKES_ANY_HOLDER || holder.is_null() => unsafe {
            C::seeing(holder, argument)
        },
        _ => by_call::<C>(argument),
    }
}

#[inline(never)]
fn by_call<C: Call>(argument: usize) -> C::Result {
    match Glance::get().and_then(|glance| glance.attached()) {
        // SAFETY: there is a glance.
        Some(current) => unsafe { C::seeing(current, argument) },
        None => C::any(argument),
    }
}
