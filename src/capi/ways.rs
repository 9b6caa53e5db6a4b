//! The ways through Ensure and Release, from the shortest one to the one that checks everything.
//!
//! All ways except the last need a [`Glance`]: an earlier call has found that CPython's structures are as expected.
//! The ways differ in how they see what is attached to the calling thread. A way that cannot see it goes on to the
//! next one:
//!
//! ```text
//! take        `attached_word`      one instruction        from 3.12 on, if CPython's variable is in static storage
//!   by_holder `holder`             two words of CPython   up to 3.11, if no thread holds the GIL: nothing is attached
//!     by_call `Glance::attached`   one function call      any version
//!       any                        long                   the first call; a mistake; tracing; 3.15's own functions
//! ```
//!
//! Each way is a function of its own. A way calls the next one as the last thing that it does, so it saves no
//! registers. This was measured: with one function that tries all ways in turn, an Ensure and Release of an
//! attached thread take 83 instructions instead of 68.

use crate::python::{attached_word, holder, Glance, PyThreadState};

/// A call that takes these ways.
pub(super) trait Call {
    type Result;

    /// Whether [`Call::seeing`] may be given the thread state that holds the GIL, up to 3.11. It may be another
    /// thread's.
    const TAKES_ANY_HOLDER: bool = false;

    /// Takes the short way. If that does not suffice, goes on with [`Call::any`].
    ///
    /// # Safety
    /// There is a [`Glance`]. Either `current` is attached to this thread, and known to `PyGILState`, or it is
    /// NULL, and nothing is attached. See also [`Call::TAKES_ANY_HOLDER`].
    unsafe fn seeing(current: *mut PyThreadState, argument: usize) -> Self::Result;

    /// Takes the long way.
    fn any(argument: usize) -> Self::Result;
}

#[inline(always)]
pub(super) fn take<C: Call>(argument: usize) -> C::Result {
    match attached_word() {
        // SAFETY: if `attached_word` tells what is attached, there is a glance.
        Some(current) => unsafe { C::seeing(current, argument) },
        None => by_holder::<C>(argument),
    }
}

#[inline(never)]
fn by_holder<C: Call>(argument: usize) -> C::Result {
    match holder() {
        // SAFETY: if `holder` tells the holder, there is a glance. If no thread holds the GIL, nothing is attached.
        Some(holder) if C::TAKES_ANY_HOLDER || holder.is_null() => unsafe {
            C::seeing(holder, argument)
        },
        _ => by_call::<C>(argument),
    }
}

#[inline(never)]
fn by_call<C: Call>(argument: usize) -> C::Result {
    match Glance::get().and_then(|glance| glance.attached()) {
        // SAFETY: there is a glance, and it has seen what is attached.
        Some(current) => unsafe { C::seeing(current, argument) },
        None => C::any(argument),
    }
}
