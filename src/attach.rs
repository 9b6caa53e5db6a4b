//! Ensure and Release: which thread state a thread gets, the thread's stack of Ensures, and
//! exact restoration.

use std::ptr::null_mut;

use crate::daemon;
use crate::fork;
use crate::gate::{Claim, NotOut};
use crate::interpreter::{Record, LOBBY};
use crate::python::{self, Api, Attached, GilstateSlot, PyThreadState};
use crate::thread::Thread;

/// A guard that a level of the stack, or a thread state, keeps by itself.
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    record: &'static Record,
    /// The process it belongs to: a forked child does not inherit it.
    generation: u32,
    /// Which of the interpreters that had the record.
    life: u16,
    /// In the thread's tally, rather than on the gate.
    tallied: bool,
}

impl Hold {
    /// For a guard that was just taken on `record`, in this process.
    #[inline]
    pub(crate) fn of(record: &'static Record) -> Hold {
        let (generation, life) = (fork::generation() as u32, record.life() as u16);
        Hold { record, generation, life, tallied: false }
    }

    /// One that the calling thread gives back itself, the cheap way. `None`: not this way.
    #[inline]
    pub(crate) fn tallied(thread: &Thread, record: &'static Record) -> Option<Hold> {
        let entered = record.gate.enter_by(&thread.tally, record.owner(), &LOBBY);
        entered.then(|| Hold { tallied: true, ..Hold::of(record) })
    }

    /// One more, from somebody who keeps the interpreter from finalizing already.
    pub(crate) fn another(record: &'static Record) -> Option<Hold> {
        record.gate.enter(Claim::Holder, &LOBBY).then(|| Hold::of(record))
    }

    #[inline]
    pub(crate) fn is_valid(&self) -> bool {
        self.generation == fork::generation() as u32 && self.life == self.record.life() as u16
    }

    /// If it is tallied: in the thread that took it.
    #[inline]
    pub(crate) fn give_back(self) -> Result<(), NotOut> {
        if self.tallied {
            // Whatever became of the interpreter, it is in the tally. But not in a child's.
            if self.generation == fork::generation() as u32 {
                if let Some(thread) = Thread::known() {
                    self.record.gate.leave_by(&thread.tally, &LOBBY);
                }
            }
            Ok(())
        } else if self.is_valid() {
            self.record.gate.leave(&LOBBY)
        } else {
            Ok(())
        }
    }
}

/// One Ensure that waits for its Release.
pub(crate) struct Level {
    pub(crate) record: &'static Record,
    /// What this Ensure attached, or found attached.
    pub(crate) state: *mut PyThreadState,
    /// What was attached before, if `state` took its place.
    outer: *mut PyThreadState,
    /// What `PyGILState` has to be told again.
    slot: Option<GilstateSlot>,
    way: Way,
    receipt: Receipt,
    serial: u16,
    /// Keeps the interpreter from finalizing until Release, if this kind of Ensure does.
    pub(crate) hold: Option<Hold>,
    pub(crate) let_go: daemon::LetGo,
}

impl Level {
    /// Whether its Release has nothing to undo but the hold.
    #[inline]
    fn is_plain(&self) -> bool {
        self.way == Way::Reused && self.slot.is_none() && self.let_go.is_nothing()
    }
}

/// What an Ensure did, for its Release to undo: see [`Level`].
struct Attachment {
    state: *mut PyThreadState,
    outer: *mut PyThreadState,
    slot: Option<GilstateSlot>,
    way: Way,
}

/// Whether Ensure's caller has a token to show at Release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    Token,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Was attached already.
    Reused,
    /// Was this thread's last thread state, detached.
    Reattached,
    /// Made for this Ensure.
    Created,
}

/// The Ensures of this thread, outermost first.
///
/// For a few lines without calls into Python, which may come back here.
#[inline]
pub(crate) fn levels() -> &'static mut [Level] {
    match Thread::known() {
        // SAFETY: as this function says.
        Some(thread) => unsafe { thread.levels() },
        None => &mut [],
    }
}

/// The thread state attached to this thread, or NULL.
#[inline]
pub(crate) fn attached(py: &Api) -> *mut PyThreadState {
    let ensured = levels().last().map_or(null_mut(), |level| level.state);
    python::attached(py, ensured).state
}

/// The thread state attached to this thread, or a fatal error.
pub(crate) fn attached_or_fatal(py: &Api, function: &str) -> *mut PyThreadState {
    let state = attached(py);
    if state.is_null() {
        python::fatal(
            function,
            "the calling thread has no attached thread state; \
             this function may only be called with one, see PyThreadState_Ensure",
        );
    }
    state
}

/// Whether this thread state was made for an Ensure of this thread.
pub(crate) fn was_created(state: *mut PyThreadState) -> bool {
    levels().iter().any(|level| level.state == state && level.way == Way::Created)
}

/// Whether this thread is inside an Ensure of this interpreter.
pub(crate) fn is_inside(record: &'static Record) -> bool {
    levels().iter().any(|level| std::ptr::eq(level.record, record))
}

/// Attaches this thread to the interpreter of `record`. `None`: out of memory; what was
/// attached before still is.
///
/// # Safety
/// The interpreter is alive and stays alive: the caller has a guard.
#[inline(always)]
pub(crate) unsafe fn ensure(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // SAFETY: until the next call into Python.
    let levels = unsafe { thread.levels() };
    // All that can fail on our side comes first.
    if levels.len() == levels.capacity() && !make_room(levels) {
        return None;
    }
    let before = python::attached(py, levels.last().map_or(null_mut(), |level| level.state));
    // SAFETY: what is attached is alive; the rest is as this function says.
    let Attachment { state, outer, slot, way } = unsafe {
        let fits = !before.state.is_null() && belongs(py, before.state, record);
        if fits && before.known_to_gilstate {
            Attachment { state: before.state, way: Way::Reused, outer: null_mut(), slot: None }
        } else {
            attach(py, record, before, fits)?
        }
    };
    let serial = thread.serial.get().wrapping_add(1);
    thread.serial.set(serial);
    let let_go = daemon::LetGo::default();
    let level = Level { record, state, outer, slot, way, receipt, serial, hold, let_go };
    // SAFETY: one line; there is room for one more, as what a call into Python may have pushed
    // has been popped again.
    unsafe { push_in_place(thread.levels(), level) };
    Some(token(thread, serial))
}

/// # Safety
/// There is room for it.
#[inline]
unsafe fn push_in_place(levels: &mut Vec<Level>, level: Level) {
    let length = levels.len();
    debug_assert!(length < levels.capacity());
    // SAFETY: inside the allocation, says the caller.
    unsafe {
        levels.as_mut_ptr().add(length).write(level);
        levels.set_len(length + 1);
    }
}

#[cold]
fn make_room(levels: &mut Vec<Level>) -> bool {
    levels.try_reserve(1).is_ok()
}

/// The ways of an Ensure that finds nothing to reuse; or, up to 3.11, something (`fits`) that
/// `PyGILState` would not find.
///
/// # Safety
/// `before` is what is attached to this thread; the interpreter is alive and stays alive.
#[inline(never)]
unsafe fn attach(
    py: &'static Api,
    record: &'static Record,
    before: Attached,
    fits: bool,
) -> Option<Attachment> {
    // SAFETY: a thread's last state is not deleted behind its back, and `PyGILState_Ensure` relies
    // on the same; the rest is as this function says.
    unsafe {
        if fits {
            let slot = GilstateSlot::replace(py, before.state);
            let (state, outer) = (before.state, null_mut());
            return Some(Attachment { state, way: Way::Reused, outer, slot });
        }
        let usual = py.PyGILState_GetThisThreadState();
        let outer = before.state;
        if outer.is_null() && !usual.is_null() && belongs(py, usual, record) {
            py.PyEval_RestoreThread(usual);
            return Some(Attachment { state: usual, way: Way::Reattached, outer, slot: None });
        }
        let state = py.PyThreadState_New(record.interpreter());
        if state.is_null() {
            return None;
        }
        if !outer.is_null() {
            // Not PyThreadState_Swap: interpreters may have a GIL each.
            py.PyEval_SaveThread();
        }
        let slot = if usual.is_null() { None } else { GilstateSlot::replace(py, state) };
        py.PyEval_RestoreThread(state);
        Some(Attachment { state, way: Way::Created, outer, slot })
    }
}

/// # Safety
/// `state` is alive.
#[inline]
unsafe fn belongs(py: &Api, state: *mut PyThreadState, record: &'static Record) -> bool {
    // SAFETY: alive, says the caller.
    unsafe { py.PyThreadState_GetInterpreter(state) == record.interpreter() }
}

/// Not NULL, and not the same for two levels of a thread, nor (as a rule) of two threads.
#[inline]
fn token(thread: &Thread, serial: u16) -> usize {
    (std::ptr::from_ref(thread) as usize) << 16 | usize::from(serial)
}

/// Undoes the innermost Ensure of this thread. `shown`: what it returned, if its caller took one.
#[inline(always)]
pub(crate) fn release(py: &'static Api, function: &str, shown: usize) {
    // SAFETY: until the first call into Python.
    let innermost =
        Thread::known().and_then(|thread| unsafe { thread.levels() }.last().zip(Some(thread)));
    let Some((level, thread)) = innermost else {
        misused(
            function,
            "there is no Ensure to release in this thread; \
             each successful Ensure is released once, in its own thread",
        );
    };
    if level.receipt == Receipt::Token && token(thread, level.serial) != shown {
        misused(
            function,
            "the token is not that of this thread's most recent Ensure; \
             Ensures are released in reverse order, in their own thread",
        );
    }
    let state = level.state;
    if python::attached(py, state).state != state {
        misused(
            function,
            "the thread state that the matching Ensure attached is not attached; \
             attach it again before the release",
        );
    }
    if level.is_plain() {
        // SAFETY: one line.
        let hold = unsafe { thread.levels() }.pop().and_then(|level| level.hold);
        give_back(function, hold);
    } else {
        undo(py, thread, function);
    }
}

/// What is more than giving back the innermost level's hold.
#[inline(never)]
fn undo(py: &'static Api, thread: &'static Thread, function: &str) {
    // SAFETY: one line.
    let Some((way, state)) =
        unsafe { thread.levels() }.last().map(|level| (level.way, level.state))
    else {
        return;
    };
    if way == Way::Created {
        // Runs destructors, which may use the library: the level is still there for them.
        // SAFETY: attached, and made by the Ensure.
        unsafe { py.PyThreadState_Clear(state) };
    }
    // SAFETY: one line. Destructors released what they ensured.
    let Some(level) = unsafe { thread.levels() }.pop() else { return };
    // SAFETY: the state is attached to this thread, and ours to detach or delete as `way` says.
    unsafe {
        match way {
            Way::Reused => level.let_go.undo(py, level.record),
            Way::Reattached => {
                level.let_go.undo(py, level.record);
                py.PyEval_SaveThread();
            }
            Way::Created => py.PyThreadState_DeleteCurrent(),
        }
    }
    if let Some(slot) = level.slot {
        slot.restore();
    }
    // Only now: the interpreter may be gone the moment it is not held any more.
    give_back(function, level.hold);
    if !level.outer.is_null() {
        // SAFETY: it was attached to this thread before the Ensure. If its interpreter
        // finalizes, the thread sleeps, as in any return to it.
        unsafe { py.PyEval_RestoreThread(level.outer) };
    }
}

#[inline]
fn give_back(function: &str, hold: Option<Hold>) {
    if hold.is_some_and(|hold| hold.give_back().is_err()) {
        misused(function, "a guard was closed more often than it was taken");
    }
}

#[cold]
fn misused(function: &str, rule: &str) -> ! {
    python::fatal(function, rule)
}
