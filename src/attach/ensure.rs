//! Ensure: attaches a thread to an interpreter, with a thread state that it has or with a new one.

use crate::gate::record::Record;
use crate::python::{self, Api, Attached, GilstateSlot, Glance, PyThreadState};
use crate::thread::attached::what_is_attached;
use crate::thread::birth;
use crate::thread::hold::Hold;
use crate::thread::levels::{LetGo, Level, Way};
use crate::thread::slip::is_off;
use crate::thread::thread::Thread;
use crate::watch::file::is_watched;

/// Whether the caller of Ensure has a token to show at Release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    Token,
    None,
}

/// Notes an Ensure that found `state` attached. Returns its token, or `None` if the Ensure needs more than that,
/// which [`ensure`] does.
///
/// # Safety
/// `state` belongs to the record's interpreter, is attached to this thread, and is known to `PyGILState`.
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
    // SAFETY: room, because `has_room` returned `true`.
    Some(unsafe { note(thread, record, state, Way::Reused, hold, receipt) })
}

/// Attaches this thread, which has nothing attached, to the interpreter of `record`. Returns the token of the Ensure,
/// or `None` if memory runs out.
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
    // SAFETY: the interpreter is held, so a thread state can be made in it. `usual` is own, and nothing is attached,
    // so `usual` can be attached. Room: `make_room` made it, and attaching adds no level that it does not take away
    // again.
    unsafe {
        if !thread.levels.make_room() {
            return None;
        }
        let usual = py.PyGILState_GetThisThreadState();
        if usual.is_null() {
            let (state, way) = attach_first(py, thread, record)?;
            return Some(note(thread, record, state, way, hold, receipt));
        }
        if python::is_of(usual, record.interpreter()) {
            py.PyEval_RestoreThread(usual);
            return Some(note(thread, record, usual, Way::Reattached, hold, receipt));
        }
    }
    // SAFETY: the interpreter is held, and nothing is attached. Both functions have the same contract.
    unsafe { ensure_over_nothing(thread, record, hold, receipt) }
}

/// Does the rest of [`ensure_detached`]. It is a function of its own because it makes a call that takes more
/// arguments than there are registers.
#[cold]
#[inline(never)]
unsafe fn ensure_over_nothing(
    thread: &Thread,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // SAFETY: the caller of `ensure_detached` had a `Glance`. The interpreter is held, and nothing is attached, which
    // is what `NOTHING` says.
    unsafe {
        let py = Glance::again().api();
        ensure_over(py, thread, record, Attached::NOTHING, hold, receipt)
    }
}

/// Attaches this thread to the interpreter of `record`. Returns the token of the Ensure. Returns `None` if memory
/// runs out: what was attached before is still attached then.
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
    // SAFETY: the interpreter is held, and `what_is_attached` tells what is attached to this thread.
    unsafe { ensure_over(py, thread, record, what_is_attached(py), hold, receipt) }
}

/// Does the same as [`ensure`], for a caller that knows what is attached.
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
    // The library's own steps that can fail come first.
    if !thread.levels.make_room() {
        return None;
    }
    // SAFETY: the interpreter is held, and `before` is attached. Room: it was made above, and a call into Python
    // inside `attach` has released what it ensured.
    unsafe {
        let (state, way) = attach(py, thread, record, before)?;
        if is_off() && !is_watched() {
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
        // The token is `outer`, as in CPython's own Ensure. `outer` is alive, and no other thread attaches it
        // meanwhile.
        Way::Created { outer, .. } if !outer.is_null() => outer as usize,
        _ => thread.next_token(),
    };
    let token = if receipt == Receipt::Token { name } else { 0 };
    let level = Level { record, state, token, hold, way, let_go: LetGo::default() };
    // SAFETY: room, by this function's contract.
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
    // SAFETY: `outer` is attached, so it is alive. `usual` is own: CPython's `PyGILState_Ensure` relies on the same.
    // The interpreter is held, so this thread can attach to it.
    unsafe {
        if !outer.is_null() && belongs(py, outer, record) {
            let known = before.known_to_gilstate;
            let slot = if known { None } else { GilstateSlot::replace(py, outer) };
            return Some((outer, slot.map_or(Way::Reused, Way::Told)));
        }
        let usual = py.PyGILState_GetThisThreadState();
        if outer.is_null() && usual.is_null() {
            return attach_first(py, thread, record);
        }
        if outer.is_null() && belongs(py, usual, record) {
            py.PyEval_RestoreThread(usual);
            return Some((usual, Way::Reattached));
        }
        create(py, thread, record, outer, usual)
    }
}

/// Attaches the first thread state of a thread that `PyGILState` knows none of: the one that the thread keeps, or a new one.
/// Release deletes a new one, or only detaches it if the thread keeps it. Returns `None` if memory runs out.
///
/// # Safety
/// The interpreter is held, and nothing is attached.
#[inline(always)]
unsafe fn attach_first(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
) -> Option<(*mut PyThreadState, Way)> {
    // SAFETY: by this function's contract. The new thread state belongs to this thread alone.
    unsafe {
        if let Some(kept) = attach_kept(py, thread, record) {
            return Some((kept, Way::Reattached));
        }
        let state = make(py, thread, record);
        if state.is_null() {
            return None;
        }
        py.PyEval_RestoreThread(state);
        let is_kept = thread.kept.is_wanted(record) && thread.kept.keep_attached(py, record);
        Some((state, if is_kept { Way::Reattached } else { Way::First }))
    }
}

/// Attaches the thread state that the thread keeps, where `PyGILState` has forgotten it. Returns `None` if it keeps none.
///
/// # Safety
/// The interpreter is held, and nothing is attached.
#[inline(always)]
unsafe fn attach_kept(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
) -> Option<*mut PyThreadState> {
    if !thread.kept.is_wanted(record) {
        return None;
    }
    // SAFETY: by this function's contract. What the thread keeps of `record` is of this run of Python.
    let state =
        thread.kept.of(record).map(|memory| unsafe { memory.attach(py, thread.kept.forgotten()) });
    thread.kept.set_displaced(false);
    state
}

/// Attaches a new thread state in place of `outer`. Returns `None` if memory runs out.
///
/// # Safety
/// As for [`attach`]. `outer` is what is attached, or NULL. `usual` is what `PyGILState` knows. One of the two is not NULL.
#[inline]
unsafe fn create(
    py: &'static Api,
    thread: &Thread,
    record: &'static Record,
    outer: *mut PyThreadState,
    usual: *mut PyThreadState,
) -> Option<(*mut PyThreadState, Way)> {
    // SAFETY: the interpreter is held. `outer` is attached to this thread, so this thread may detach it, and attach
    // it again. The new thread state belongs to this thread alone.
    unsafe {
        if !outer.is_null() {
            // PyThreadState_Swap is not used, because each interpreter may have a GIL of its own. The detach comes
            // before the new thread state is made: in a build without a GIL, making it may stop the threads of its
            // interpreter, and one of those threads may want to stop the threads of this interpreter.
            py.PyEval_SaveThread();
        }
        let state = make(py, thread, record);
        if state.is_null() {
            if !outer.is_null() {
                py.PyEval_RestoreThread(outer);
            }
            return None;
        }
        let slot = if usual.is_null() { None } else { GilstateSlot::replace(py, state) };
        if outer.is_null() && slot.is_none() && thread.kept.is(usual) {
            // Attaching this one displaces it.
            thread.kept.set_displaced(true);
        }
        py.PyEval_RestoreThread(state);
        Some((state, Way::Created { outer, slot }))
    }
}

/// Makes a new thread state. Returns NULL if memory runs out.
///
/// # Safety
/// The interpreter is held.
#[inline(always)]
unsafe fn make(py: &Api, thread: &Thread, record: &'static Record) -> *mut PyThreadState {
    // SAFETY: the interpreter is held, so its address is that of a live interpreter.
    birth::of_thread_state(py, &thread.birth, || unsafe {
        py.PyThreadState_New(record.interpreter())
    })
}

/// # Safety
/// `state` is alive.
#[inline]
unsafe fn belongs(py: &Api, state: *mut PyThreadState, record: &'static Record) -> bool {
    // SAFETY: `state` is alive, by this function's contract. The record's address is only compared.
    unsafe { py.PyThreadState_GetInterpreter(state) == record.interpreter() }
}
