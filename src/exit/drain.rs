//! Waits until no guard is out on any gate that an exit covers, and closes these gates.

use alloc::vec::Vec;

use super::calls::Calls;
use crate::gate::fence;
use crate::gate::gate::close_together;
use crate::gate::record::Record;
use crate::gate::registry::{registry, LOBBY};
use crate::gate::tally::ROLL;
use crate::python::sight;
use crate::support::clock::Instant;

pub(super) fn covers(record: &'static Record, other: &'static Record) -> bool {
    record.is_main() || core::ptr::eq(record, other)
}

/// Returns the interpreters that the exit of `record` waits for, and how many guards are out on each. If memory runs
/// out, the list is not complete.
pub(super) fn guards_out(record: &'static Record) -> Vec<(&'static Record, usize)> {
    let mut out = Vec::new();
    for other in registry().live().filter(|other| covers(record, other)) {
        let guards = other.guards();
        if guards != 0 && out.try_reserve(1).is_ok() {
            out.push((other, guards));
        }
    }
    out
}

pub(super) fn honours_views(grace_over: Option<Instant>) -> bool {
    grace_over.is_none_or(|grace_over| Instant::now() < grace_over)
}

/// Closes the gates that the exit of `record` covers, if no guard is out.
pub(super) fn close(record: &'static Record, honour_views: bool, calls: &Calls) -> bool {
    // While this lock is held, no interpreter can come or go.
    let registry = registry();
    let covered = registry.live().filter(|other| covers(record, other));
    let legacy_too = calls.goes_on();
    let gates = covered.clone().flat_map(|other| {
        [Some(&other.gate), legacy_too.then_some(&other.legacy)].into_iter().flatten()
    });
    let seat = LOBBY.enter();
    let is_tallied = |other: &'static Record| {
        let owner = other.owner();
        other.striped() != 0
            || ROLL.sum(owner) != 0
            || legacy_too && ROLL.sum(owner.of_gilstate()) != 0
    };
    let tallied = || covered.clone().any(is_tallied);
    let closed = close_together(gates, tallied, honour_views, &seat);
    if closed {
        covered.for_each(|other| other.legacy.condemn());
        if record.is_main() {
            sight::forget_run();
        }
    }
    closed
}

/// Waits with nothing attached until no guard is out, or until `pause`. Returns `true` if no guard is out.
pub(super) fn wait_detached(
    record: &'static Record,
    grace_over: Option<Instant>,
    calls: &Calls,
    pause: Instant,
) -> bool {
    loop {
        let honour_views = honours_views(grace_over);
        // The covered interpreters are found anew in each round: interpreters come and go while the main one waits.
        let seat = {
            let registry = registry();
            let covered = registry.live().filter(|other| covers(record, other));
            let seat = LOBBY.enter();
            covered.clone().for_each(|other| other.gate.drain(honour_views));
            // A thread that tallies a hold after this fence sees the state of the gate.
            fence::heavy();
            let guards_are_out = covered.clone().any(|other| other.guards() != 0);
            let lets_in = calls.lets_in(guards_are_out, grace_over);
            covered.clone().for_each(|other| other.legacy.drain(lets_in));
            // The same for the holds of `PyGILState_Ensure`'s calls.
            fence::heavy();
            let waits = guards_are_out
                || calls.goes_on() && covered.clone().any(|other| other.legacy_guards() != 0);
            waits.then_some(seat)
        };
        let Some(seat) = seat else { return true };
        if Instant::now() >= pause {
            return false;
        }
        // This thread has held the lobby's lock since its look at the counts, so it misses no bell.
        let pause = calls.next_change(pause);
        let wake = if honour_views { grace_over.map_or(pause, |g| g.min(pause)) } else { pause };
        drop(LOBBY.wait(seat, Some(wake)));
    }
}
