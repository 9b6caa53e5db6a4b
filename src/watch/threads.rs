//! Notes how threads attach, whether they are inside a call, and which of them come too late.

use core::sync::atomic::Ordering;

use super::disturb::{self, Place};
use super::file::{
    file, now, roughly_now, File, Slot, BY_PEP788, BY_SCOPE, DEPTH, ENDED, INSIDE_AT_EXIT,
    OF_PYTHON, SLEEPS, UNWOUND,
};
use super::{functions, maps, phases};
use crate::os::this_id;
use crate::python::{eval, states, Api};
use crate::support::short_text::ShortText;
use crate::system::names::this_name;
use crate::system::stack;
use crate::thread::thread::Thread;

/// By which function a thread attaches.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Ensure,
    /// `PyEval_AcquireThread`.
    Scope,
    /// The functions of PEP 788, by which no thread comes too late.
    Pep788,
}

/// Notes that the calling thread is about to attach. Returns its place, if the process is watched and the file has
/// room.
pub(crate) fn arrives(py: &'static Api, way: Way) -> Option<&'static Slot> {
    let file = file()?;
    let slot = slot(file, py)?;
    match way {
        Way::Ensure => {}
        Way::Scope => slot.set_flag(BY_SCOPE),
        Way::Pep788 => slot.set_flag(BY_PEP788),
    }
    if slot.is_inside.load(Ordering::Relaxed) == 0 {
        if way != Way::Pep788 && is_too_late(py) {
            note_late(file, slot);
        }
        disturb::thread(slot, Place::BeforeAttaching);
    }
    Some(slot)
}

/// Notes that the calling thread has attached.
pub(crate) fn is_in(py: &'static Api, slot: &'static Slot) {
    let time = roughly_now();
    // Relaxed, all of them: only this thread writes, and what is noted is for people.
    let depth = slot.is_inside.load(Ordering::Relaxed);
    slot.is_inside.store(depth + 1, Ordering::Relaxed);
    if depth != 0 {
        return;
    }
    let calls = slot.calls.load(Ordering::Relaxed);
    if calls == 0 {
        slot.first.store(now(), Ordering::Relaxed);
        phases::request(py);
    }
    slot.calls.store(calls + 1, Ordering::Relaxed);
    slot.last.store(time, Ordering::Relaxed);
    functions::arm(py, slot, time);
    disturb::thread(slot, Place::Inside);
}

/// Notes that the calling thread is about to detach. This comes before its hold is given back: then the exit goes on, and may be
/// over before the thread runs again.
pub(crate) fn goes(py: &'static Api) -> Option<&'static Slot> {
    let slot = file()?.slot()?;
    functions::disarm(py, slot);
    // Relaxed: only this thread writes.
    let depth = slot.is_inside.load(Ordering::Relaxed).saturating_sub(1);
    slot.is_inside.store(depth, Ordering::Relaxed);
    let was_met = slot.has_flag(INSIDE_AT_EXIT) && slot.left.load(Ordering::Relaxed) == 0;
    if depth == 0 && was_met {
        slot.left.store(now(), Ordering::Relaxed);
    }
    Some(slot)
}

/// Is called when the calling thread has detached.
pub(crate) fn is_out(slot: &Slot) {
    if slot.is_inside.load(Ordering::Relaxed) == 0 {
        disturb::thread(slot, Place::AfterDetaching);
    }
}

/// What becomes of a thread that comes too late.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// The library ends it.
    Ended,
    /// CPython unwinds its stack, or has it sleep without end.
    Unwound,
    Sleeps,
}

/// Notes that the calling thread comes too late.
pub(crate) fn is_late(py: &'static Api, fate: Fate) {
    let Some(file) = file() else { return };
    let Some(slot) = slot(file, py) else { return };
    note_late(file, slot);
    slot.set_flag(match fate {
        Fate::Ended => ENDED,
        Fate::Unwound => UNWOUND,
        Fate::Sleeps => SLEEPS,
    });
}

fn note_late(file: &File, slot: &Slot) {
    if slot.late.load(Ordering::Relaxed) != 0 {
        return;
    }
    slot.late.store(now(), Ordering::Relaxed);
    let mut addresses = [0; DEPTH];
    let depth = stack::walk(&mut addresses);
    maps::note(file, &addresses[..depth]);
    slot.late_stack.set(&addresses[..depth]);
}

/// Returns whether Python finalizes, or is gone, and another thread conducts that.
fn is_too_late(py: &Api) -> bool {
    states::are_going_or_gone(py) && !phases::is_conductor(this_id())
}

/// Returns the place of the calling thread. At its first call, notes who it is and where it comes from. It has
/// nothing attached then, unless Python knows it.
fn slot(file: &'static File, py: &Api) -> Option<&'static Slot> {
    if let Some(slot) = file.slot() {
        return Some(slot);
    }
    let thread = Thread::this()?;
    eval::prepare(py);
    // Relaxed: each thread gets another number.
    let number = file.threads_seen.fetch_add(1, Ordering::Relaxed) as usize;
    let slot = file.threads.get(number)?;
    thread.watched.set(number as u32 + 1);
    let mut addresses = [0; DEPTH];
    let depth = stack::walk(&mut addresses);
    maps::note(file, &addresses[..depth]);
    slot.stack.set(&addresses[..depth]);
    slot.name.set(ShortText::as_bytes(&this_name()));
    // SAFETY: `PyGILState_GetThisThreadState` reads thread-local storage only.
    if !unsafe { py.PyGILState_GetThisThreadState() }.is_null() {
        slot.set_flag(OF_PYTHON);
    }
    slot.id.store(this_id(), Ordering::Relaxed);
    Some(slot)
}
