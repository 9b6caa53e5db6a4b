//! Release: exact restoration of what was attached before the Ensure.

use std::ptr::null_mut;

use super::holding;
use crate::python::{self, Api, Glance, PyThreadState};
use crate::thread::hold::Hold;
use crate::thread::levels::{Level, Way};
use crate::thread::thread::Thread;

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
            Way::Reused => holding::give_again(py, &level),
            Way::Told(slot) => {
                holding::give_again(py, &level);
                told = Some(slot);
            }
            Way::Reattached => {
                holding::give_again(py, &level);
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
    if hold.is_some_and(|hold| hold.give_back_by(&thread.tally).is_err()) {
        too_many();
    }
}

#[cold]
fn too_many() -> ! {
    python::fatal("PyThreadState_Release", "a guard was closed more often than it was taken")
}
