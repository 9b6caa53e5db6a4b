//! Takes and closes guards in the most common cases, with as few instructions as possible.
//!
//! All other cases are left to the functions that say what is wrong. `ensure.rs` does the same for Ensure and
//! Release.

use super::handle::{self, Kind};
use crate::gate::record::Record;
use crate::gate::registry::LOBBY;
use crate::python::{attached_word, is_of, Glance};
use crate::thread::thread::Thread;

/// Takes a guard of, or a strong reference to, the attached interpreter. Returns `None` if the case is not a common
/// one.
#[inline(always)]
pub(super) fn guard_current(kind: Kind) -> Option<usize> {
    let current = match attached_word() {
        Some(current) => current,
        None => Glance::get()?.attached()?,
    };
    let record = Thread::known()?.last.get()?;
    // SAFETY: there is a glance, and `current` is attached.
    let fits = !current.is_null() && unsafe { is_of(current, record.interpreter()) };
    if fits {
        take(record, kind)
    } else {
        None
    }
}

/// Takes one of the interpreter that a view or weak reference names. Returns `None` if the case is not a common
/// one.
#[inline(always)]
pub(super) fn guard_named(view: usize, view_kind: Kind, kind: Kind) -> Option<usize> {
    Glance::get()?;
    if !handle::is_good(view, view_kind) {
        return None;
    }
    // SAFETY: the handle is good, so it leads to a record, and records are never freed.
    take(unsafe { handle::record_of(view) }, kind)
}

#[inline(always)]
fn take(record: &'static Record, kind: Kind) -> Option<usize> {
    // The slow way makes the thread known.
    let number = Thread::known()?.stripe;
    if record.is_installed() && record.enter_stripe(number, &LOBBY) {
        // Tracing is off where there is a glance.
        Some(handle::untraced(record, kind) | handle::on_stripe(number))
    } else {
        None
    }
}

/// Closes a guard or strong reference. Returns `false` if it did not.
#[inline(always)]
pub(super) fn close(handle: usize, kind: Kind) -> bool {
    if Glance::get().is_none() || !handle::is_good(handle, kind) {
        return false;
    }
    // SAFETY: the handle is good, so it leads to a record, and records are never freed.
    let record = unsafe { handle::record_of(handle) };
    record.leave_guard(handle::stripe_of(handle), &LOBBY).is_ok()
}
