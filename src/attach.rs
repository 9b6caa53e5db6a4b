//! Ensure and Release: which thread state a thread gets, the thread's stack of Ensures, and
//! exact restoration.

use std::ptr::null_mut;

use crate::birth;
use crate::daemon;
use crate::fork;
use crate::gate::{Claim, NotOut};
use crate::interpreter::{self, Record, LOBBY};
use crate::levels::Levels;
use crate::python::{self, Api, Attached, GilstateSlot, Glance, PyThreadState};
use crate::thread::Thread;
use crate::trace::{self, Slip, What};

/// A guard that a level of the stack, or a thread state, keeps by itself.
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    record: &'static Record,
    origin: Origin,
}

/// Where a hold is counted, and whether it still counts: the process that took it (a forked child
/// does not inherit it), which of the interpreters that had the record, and [`Origin::TALLIED`].
/// In one word, so that a hold stays in registers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin(u64);

impl Origin {
    /// In the thread's tally, rather than on the gate.
    const TALLIED: u64 = 1;
    /// The rest is the address of a slip, which knows all that.
    const TRACED: u64 = 2;

    #[inline]
    fn now(record: &Record) -> Origin {
        Origin((fork::generation() as u64) << 32 | (record.life() as u64) << 16)
    }

    fn traced(slip: &'static Slip) -> Origin {
        Origin(std::ptr::from_ref(slip) as u64 | Origin::TRACED)
    }

    #[inline]
    fn slip(self) -> Option<&'static Slip> {
        let address = self.0 & !Origin::TRACED;
        // SAFETY: put there by `traced`; slips are never freed.
        (self.0 & Origin::TRACED != 0).then(|| unsafe { &*(address as *const Slip) })
    }

    #[inline]
    fn is_of_this_process(self) -> bool {
        self.0 >> 32 == fork::generation() as u64
    }
}

impl Hold {
    /// For a guard that was just taken on `record`, in this process.
    #[inline]
    pub(crate) fn of(record: &'static Record) -> Hold {
        let slip = trace::note(record, What::Hold);
        Hold { record, origin: slip.map_or_else(|| Origin::now(record), Origin::traced) }
    }

    /// One that the calling thread gives back itself, the cheap way. `None`: not this way.
    #[inline]
    pub(crate) fn tallied(thread: &Thread, record: &'static Record) -> Option<Hold> {
        if trace::is_off() {
            Hold::tallied_untraced(thread, record)
        } else {
            None
        }
    }

    /// The same, where tracing is known to be off: wherever there is a [`Glance`].
    #[inline(always)]
    pub(crate) fn tallied_untraced(thread: &Thread, record: &'static Record) -> Option<Hold> {
        let entered = record.enter_by(&thread.tally, &LOBBY);
        let origin = Origin(Origin::now(record).0 | Origin::TALLIED);
        entered.then_some(Hold { record, origin })
    }

    /// One more, from somebody who keeps the interpreter from finalizing already.
    pub(crate) fn another(record: &'static Record) -> Option<Hold> {
        record.gate.enter(Claim::Holder, &LOBBY).then(|| Hold::of(record))
    }

    pub(crate) fn record(&self) -> &'static Record {
        self.record
    }

    #[inline]
    pub(crate) fn is_valid(&self) -> bool {
        self.origin.0 & !Origin::TALLIED == Origin::now(self.record).0
            || self.origin.slip().is_some_and(Slip::is_valid)
    }

    /// If it is tallied: in the thread that took it, which is `thread`.
    #[inline(always)]
    pub(crate) fn give_back_by(self, thread: &Thread) -> Result<(), NotOut> {
        if self.origin.0 & Origin::TALLIED != 0 {
            // Whatever became of the interpreter, it is in the tally. But not in a child's.
            if self.origin.is_of_this_process() {
                self.record.gate.leave_by(&thread.tally, &LOBBY);
            }
            Ok(())
        } else {
            self.leave()
        }
    }

    /// One that is not tallied.
    #[cold]
    fn leave(self) -> Result<(), NotOut> {
        if !self.is_valid() {
            return Ok(());
        }
        if let Some(slip) = self.origin.slip() {
            slip.close(slip.life());
        }
        self.record.gate.leave(&LOBBY)
    }

    /// One that is not tallied; or in the thread that took it.
    pub(crate) fn give_back(self) -> Result<(), NotOut> {
        match Thread::known() {
            Some(thread) => self.give_back_by(thread),
            // Then it is not tallied.
            None => self.leave(),
        }
    }
}

/// One Ensure that waits for its Release.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    pub(crate) record: &'static Record,
    /// What this Ensure attached, or found attached.
    pub(crate) state: *mut PyThreadState,
    /// What the Release has to show; 0: nothing.
    token: usize,
    /// Keeps the interpreter from finalizing until Release, if this kind of Ensure does.
    pub(crate) hold: Option<Hold>,
    way: Way,
    pub(crate) let_go: daemon::LetGo,
}

impl Level {
    /// None, below all of a thread.
    pub(crate) fn bottom() -> Level {
        // An address that no thread state has.
        let state = std::ptr::NonNull::dangling().as_ptr();
        let (record, let_go) = (interpreter::main(), daemon::LetGo::default());
        Level { record, state, token: 0, hold: None, way: Way::Reused, let_go }
    }
}

/// How an Ensure came to its thread state, and so what its Release has to do.
#[derive(Clone, Copy)]
enum Way {
    /// Was attached already.
    Reused,
    /// Was attached, and `PyGILState` had to be told so.
    Told(GilstateSlot),
    /// Was this thread's last thread state, detached.
    Reattached,
    /// Made for this Ensure, of a thread with nothing attached, nor known to `PyGILState`.
    First,
    /// Made for this Ensure; `outer` was attached before, or nothing.
    Created { outer: *mut PyThreadState, slot: Option<GilstateSlot> },
}

impl Way {
    fn creates(&self) -> bool {
        matches!(self, Way::First | Way::Created { .. })
    }
}

/// Whether Ensure's caller has a token to show at Release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    Token,
    None,
}

/// The Ensures of this thread, outermost first.
#[inline]
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    Thread::known().into_iter().flat_map(|thread| thread.levels.iter())
}

/// This thread's levels, and the index of the innermost one, if that is of `state`.
pub(crate) fn innermost_in(state: *mut PyThreadState) -> Option<(&'static Levels, usize)> {
    let levels = &Thread::known()?.levels;
    levels.innermost().filter(|level| level.state == state)?;
    Some((levels, levels.len() - 1))
}

/// The thread state attached to this thread, or NULL.
#[inline]
pub(crate) fn attached(py: &Api) -> *mut PyThreadState {
    what_is_attached(py).state
}

#[inline]
fn what_is_attached(py: &Api) -> Attached {
    let innermost = Thread::known().and_then(|thread| thread.levels.innermost());
    let ensured = innermost.map_or(null_mut(), |level| level.state);
    python::attached(py, ensured)
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
    levels().any(|level| level.state == state && level.way.creates())
}

/// Whether this thread is inside an Ensure of this interpreter.
pub(crate) fn is_inside(record: &'static Record) -> bool {
    levels().any(|level| std::ptr::eq(level.record, record))
}

/// Notes an Ensure that found `state` attached. Returns its token. `None`: it needs more than that,
/// which [`ensure`] does.
///
/// # Safety
/// `state` is of the record's interpreter, attached to this thread, and known to `PyGILState`.
#[inline(always)]
pub(crate) unsafe fn reuse(
    thread: &Thread,
    record: &'static Record,
    state: *mut PyThreadState,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    if !thread.levels.has_room() {
        return None;
    }
    // SAFETY: room: `has_room` was just asked.
    Some(unsafe { note(thread, record, state, Way::Reused, hold, receipt) })
}

/// Attaches this thread, which has nothing attached, to the interpreter of `record`. Returns the
/// Ensure's token. `None`: out of memory.
///
/// # Safety
/// The interpreter is held (`python` says what that means). Nothing is attached to this thread.
#[inline(always)]
pub(crate) unsafe fn ensure_detached(
    glance: Glance,
    thread: &Thread,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    let py = glance.api();
    // SAFETY: held, so a thread state can be made in the interpreter. `usual` is own, and nothing is attached, so it can be
    // attached. Room: `make_room` was just asked, and attaching adds no level that it does not take away again.
    unsafe {
        if !thread.levels.make_room() {
            return None;
        }
        let usual = py.PyGILState_GetThisThreadState();
        if usual.is_null() {
            let state = make(py, thread, record);
            if state.is_null() {
                return None;
            }
            py.PyEval_RestoreThread(state);
            return Some(note(thread, record, state, Way::First, hold, receipt));
        }
        if python::is_of(usual, record.interpreter()) {
            py.PyEval_RestoreThread(usual);
            return Some(note(thread, record, usual, Way::Reattached, hold, receipt));
        }
    }
    // SAFETY: held, and nothing is attached: the contract of both functions is the same.
    unsafe { ensure_over_nothing(thread, record, hold, receipt) }
}

/// As [`ensure_detached`], with a call that takes more arguments than registers.
#[cold]
#[inline(never)]
unsafe fn ensure_over_nothing(
    thread: &Thread,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // SAFETY: the caller of `ensure_detached` had a `Glance`. Held, and nothing is attached, which is what `NOTHING` says.
    unsafe {
        let py = Glance::again().api();
        ensure_over(py, thread, record, Attached::NOTHING, hold, receipt)
    }
}

/// Attaches this thread to the interpreter of `record`. Returns the Ensure's token. `None`: out of
/// memory; what was attached before still is.
///
/// # Safety
/// The interpreter is held.
pub(crate) unsafe fn ensure(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // SAFETY: held; and `what_is_attached` tells what is attached to this thread.
    unsafe { ensure_over(py, thread, record, what_is_attached(py), hold, receipt) }
}

/// The same, for a caller that knows what is attached.
///
/// # Safety
/// The interpreter is held. `before` is attached to this thread.
#[inline(never)]
pub(crate) unsafe fn ensure_over(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
    before: Attached,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // All that can fail on our side comes first.
    if !thread.levels.make_room() {
        return None;
    }
    // SAFETY: held, and `before` is attached. Room: it was made above, and a call into Python inside `attach` has released
    // what it ensured.
    unsafe {
        let (state, way) = attach(py, thread, record, before)?;
        if trace::is_off() {
            Glance::learn(py, state);
        }
        Some(note(thread, record, state, way, hold, receipt))
    }
}

/// # Safety
/// There is room.
#[inline(always)]
unsafe fn note(
    thread: &Thread,
    record: &'static Record,
    state: *mut PyThreadState,
    way: Way,
    hold: Option<Hold>,
    receipt: Receipt,
) -> usize {
    let name = match way {
        // As natively. It is alive, and not attached by anybody else meanwhile.
        Way::Created { outer, .. } if !outer.is_null() => outer as usize,
        _ => thread.next_token(),
    };
    let token = if receipt == Receipt::Token { name } else { 0 };
    let level = Level { record, state, token, hold, way, let_go: daemon::LetGo::default() };
    // SAFETY: room is this function's own condition.
    unsafe { thread.levels.push(level) };
    name
}

/// # Safety
/// `before` is what is attached to this thread. The interpreter is held.
unsafe fn attach(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
    before: Attached,
) -> Option<(*mut PyThreadState, Way)> {
    let outer = before.state;
    // SAFETY: `outer` is attached, so alive. `usual` is own: CPython's `PyGILState_Ensure` relies on the same. The interpreter
    // is held, so it can be attached to.
    unsafe {
        if !outer.is_null() && belongs(py, outer, record) {
            let known = before.known_to_gilstate;
            let slot = if known { None } else { GilstateSlot::replace(py, outer) };
            return Some((outer, slot.map_or(Way::Reused, Way::Told)));
        }
        let usual = py.PyGILState_GetThisThreadState();
        if outer.is_null() && !usual.is_null() && belongs(py, usual, record) {
            py.PyEval_RestoreThread(usual);
            return Some((usual, Way::Reattached));
        }
        create(py, thread, record, outer, usual)
    }
}

/// Attaches a new thread state in place of `outer`. `None`: out of memory.
///
/// # Safety
/// As for [`attach`]; `outer` is what is attached, or NULL, and `usual` what `PyGILState` knows.
#[inline]
unsafe fn create(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
    outer: *mut PyThreadState,
    usual: *mut PyThreadState,
) -> Option<(*mut PyThreadState, Way)> {
    // SAFETY: held. `outer` is attached to this thread, so this thread may detach it. The new state is nobody else's.
    unsafe {
        let state = make(py, thread, record);
        if state.is_null() {
            return None;
        }
        if !outer.is_null() {
            // Not PyThreadState_Swap: interpreters may have a GIL each.
            py.PyEval_SaveThread();
        }
        let slot = if usual.is_null() { None } else { GilstateSlot::replace(py, state) };
        py.PyEval_RestoreThread(state);
        Some((state, Way::Created { outer, slot }))
    }
}

/// A new thread state. NULL: out of memory.
///
/// # Safety
/// The interpreter is held.
#[inline(always)]
unsafe fn make(py: &Api, thread: &Thread, record: &'static Record) -> *mut PyThreadState {
    // SAFETY: held, so its address is that of a live interpreter.
    birth::of_thread_state(py, thread, || unsafe { py.PyThreadState_New(record.interpreter()) })
}

/// # Safety
/// `state` is alive.
#[inline]
unsafe fn belongs(py: &Api, state: *mut PyThreadState, record: &'static Record) -> bool {
    // SAFETY: alive is this function's own condition. The record's address is only compared.
    unsafe { py.PyThreadState_GetInterpreter(state) == record.interpreter() }
}

/// Undoes the innermost Ensure of this thread. This function does the commonest cases itself. Cases that need more, and
/// mistakes, go to other functions. Each such call is the last thing done here, so that it costs no stack frame.
///
/// `current`: what is attached to this thread; or up to 3.11 to whichever thread.
///
/// # Safety
/// This thread had a [`Glance`].
#[inline(always)]
pub(crate) unsafe fn release_at_a_glance(current: *mut PyThreadState, shown: usize) {
    let Some(thread) = Thread::known() else { return release_closely(shown) };
    let levels = &thread.levels;
    let level = levels.top();
    if level.token != shown || level.state != current || !level.let_go.is_nothing() {
        return release_unshown(thread, current, shown);
    }
    let plain = level.hold.is_none();
    // SAFETY: `level.state` is attached to this thread, so it is no bottom's and there is a level to take away. The caller
    // had a `Glance`.
    unsafe {
        if plain && matches!(level.way, Way::Reused) {
            levels.pop();
        } else if plain && matches!(level.way, Way::Reattached) {
            levels.pop();
            Glance::again().api().PyEval_SaveThread();
        } else if matches!(level.way, Way::First) {
            release_first(thread);
        } else {
            release_holding(thread, shown);
        }
    }
}

/// By [`release`], for callers that know that there is a [`Glance`].
#[cold]
fn release_closely(shown: usize) {
    // SAFETY: both callers have a `Glance`.
    release(unsafe { Glance::again() }.api(), "PyThreadState_Release", shown);
}

/// For an Ensure whose caller took no token.
#[inline(never)]
fn release_unshown(thread: &Thread, current: *mut PyThreadState, shown: usize) {
    let level = thread.levels.top();
    // With others around it: the token may be one of theirs.
    let is_nested = thread.levels.are_nested();
    if level.token != 0 || is_nested || level.state != current || !level.let_go.is_nothing() {
        release_closely(shown);
    } else if matches!(level.way, Way::First) {
        // SAFETY: the innermost level's state was just compared with what is attached. The caller had a `Glance`.
        unsafe { release_first(thread) };
    } else {
        // SAFETY: the same comparison; `is_nothing` says that nothing was let go.
        unsafe { release_holding(thread, shown) };
    }
}

/// # Safety
/// The innermost Ensure's thread state is attached, and has let nothing go. There is a [`Glance`].
#[inline(never)]
unsafe fn release_holding(thread: &Thread, shown: usize) {
    // SAFETY: the innermost level is there, and its state is attached to this thread: each way detaches or deletes it once.
    unsafe {
        match thread.levels.top().way {
            Way::Reused => give_back(thread, pop(thread)),
            Way::Reattached => {
                let hold = pop(thread);
                Glance::again().api().PyEval_SaveThread();
                give_back(thread, hold);
            }
            Way::First => release_first(thread),
            Way::Told(_) | Way::Created { .. } => release_closely(shown),
        }
    }
}

/// # Safety
/// The innermost Ensure's thread state is attached, and the first of its thread. There is a [`Glance`].
#[inline(never)]
unsafe fn release_first(thread: &Thread) {
    // SAFETY: the innermost level's state is attached, and was made by its Ensure, which nobody else deletes.
    unsafe {
        // Destructors may use the library: the level is still there for them. They released what
        // they ensured.
        Glance::again().api().PyThreadState_Clear(thread.levels.top().state);
        let levels = &thread.levels;
        if levels.top().hold.is_some() {
            delete_holding(thread);
        } else {
            levels.pop();
            Glance::again().api().PyThreadState_DeleteCurrent();
        }
    }
}

/// # Safety
/// The innermost Ensure's thread state is attached, and cleared. There is a [`Glance`].
#[inline(never)]
unsafe fn delete_holding(thread: &Thread) {
    // SAFETY: attached and cleared is what `PyThreadState_DeleteCurrent` asks for, and this function too.
    unsafe {
        let hold = pop(thread);
        Glance::again().api().PyThreadState_DeleteCurrent();
        give_back(thread, hold);
    }
}

/// Takes the innermost level away, and returns its hold.
///
/// # Safety
/// There is one.
#[inline(always)]
unsafe fn pop(thread: &Thread) -> Option<Hold> {
    let hold = thread.levels.top().hold;
    // SAFETY: that there is one is this function's own condition.
    unsafe { thread.levels.pop() };
    hold
}

/// Undoes the innermost Ensure of this thread. `shown`: what it returned, if its caller took one.
#[cold]
pub(crate) fn release(py: &'static Api, function: &str, shown: usize) {
    let thread = Thread::known();
    let innermost = thread.and_then(|thread| thread.levels.innermost());
    let Some((thread, level)) = thread.zip(innermost) else {
        python::fatal(
            function,
            "there is no Ensure to release in this thread; \
             each successful Ensure is released once, in its own thread",
        );
    };
    let outer = if level.token == shown { None } else { outer(thread, shown) };
    if level.token != shown && level.token != 0 && outer.is_none() {
        python::fatal(
            function,
            "the token is not that of this thread's most recent Ensure; Ensures are released in their own thread, \
             and in reverse order unless all of them found the same thread state attached",
        );
    }
    let state = level.state;
    if python::attached(py, state).state != state {
        python::fatal(
            function,
            "the thread state that the matching Ensure attached is not attached; \
             attach it again before the release",
        );
    }
    match outer {
        Some(index) => take_out(thread, index),
        None => undo(py, thread),
    }
}

/// The index of the Ensure around the most recent one that has this token, if it may be released before those inside it:
/// it and they all found the same thread state attached, and leave it so. Then the order in which they are released
/// carries no meaning, as with `PyGILState_Release`: two greenlets or coroutines of a thread may end in any order.
fn outer(thread: &Thread, shown: usize) -> Option<usize> {
    let levels = &thread.levels;
    let index = levels.iter().position(|level| shown != 0 && level.token == shown)?;
    let state = levels.get(index)?.state;
    let reuses = |level: Level| {
        level.state == state && matches!(level.way, Way::Reused) && level.let_go.is_untouched()
    };
    levels.iter().skip(index).all(reuses).then_some(index)
}

/// Releases that one.
fn take_out(thread: &Thread, index: usize) {
    let Some(level) = thread.levels.get(index) else { return };
    thread.levels.remove(index);
    give_back(thread, level.hold);
}

/// Undoes the innermost Ensure of this thread, whose thread state is attached.
fn undo(py: &'static Api, thread: &Thread) {
    let last = thread.levels.innermost();
    if let Some(level) = last.filter(|level| level.way.creates()) {
        // Runs destructors, which may use the library: the level is still there for them.
        // SAFETY: the Ensure made it, so it is own; `release` has checked that it is attached.
        unsafe { py.PyThreadState_Clear(level.state) };
    }
    // Again: its hold may have changed. Destructors released what they ensured.
    let Some(level) = thread.levels.innermost() else { return };
    let (mut told, mut before) = (None, null_mut());
    // SAFETY: the level's state is attached to this thread. What the Ensure made is deleted, what it found detached is detached.
    unsafe {
        thread.levels.pop();
        match level.way {
            Way::Reused => level.let_go.undo(py, level.record),
            Way::Told(slot) => {
                level.let_go.undo(py, level.record);
                told = Some(slot);
            }
            Way::Reattached => {
                level.let_go.undo(py, level.record);
                py.PyEval_SaveThread();
            }
            Way::First => py.PyThreadState_DeleteCurrent(),
            Way::Created { outer, slot } => {
                py.PyThreadState_DeleteCurrent();
                told = slot;
                before = outer;
            }
        }
    }
    if let Some(slot) = told {
        slot.restore();
    }
    // Only now: the interpreter may be gone the moment it is not held any more.
    give_back(thread, level.hold);
    if !before.is_null() {
        // SAFETY: it was attached to this thread before the Ensure. If its interpreter
        // finalizes, the thread sleeps, as in any return to it.
        unsafe { py.PyEval_RestoreThread(before) };
    }
}

#[inline(always)]
fn give_back(thread: &Thread, hold: Option<Hold>) {
    if hold.is_some_and(|hold| hold.give_back_by(thread).is_err()) {
        too_many();
    }
}

#[cold]
fn too_many() -> ! {
    python::fatal("PyThreadState_Release", "a guard was closed more often than it was taken")
}
