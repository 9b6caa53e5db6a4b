//! Release: restores exactly what was attached before the Ensure.

use core::ptr::null_mut;

use super::holding;
use crate::python::{self, Api, Glance, PyThreadState};
use crate::thread::hold::Hold;
use crate::thread::levels::{Level, Way};
use crate::thread::thread::Thread;

/// Undoes the innermost Ensure of this thread. This function does the commonest cases itself. Cases that need more,
/// and mistakes, go to other functions. Each such call is the last thing done here, so that it costs no stack frame.
///
/// `current` is what is attached to this thread. Up to 3.11 it may be what is attached to another thread.
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
    // SAFETY: `level.state` is attached to this thread, so the level is not the bottom, and there is a level to take
    // away. The caller had a `Glance`.
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

/// Calls [`release`], for callers that know that there is a [`Glance`].
#[cold]
fn release_closely(shown: usize) {
    // SAFETY: every caller has a `Glance`.
    release(unsafe { Glance::again() }.api(), "PyThreadState_Release", shown);
}

/// Releases an Ensure whose caller took no token.
#[inline(never)]
fn release_unshown(thread: &Thread, current: *mut PyThreadState, shown: usize) {
    let level = thread.levels.top();
    // If there are outer Ensures, the token may be that of one of them.
    let is_nested = thread.levels.are_nested();
    if level.token != 0 || is_nested || level.state != current || !level.let_go.is_nothing() {
        release_closely(shown);
    } else if matches!(level.way, Way::First) {
        // SAFETY: the innermost level's state was compared above with what is attached. The caller had a `Glance`.
        unsafe { release_first(thread) };
    } else {
        // SAFETY: the states were compared above, and `is_nothing` says that nothing was let go.
        unsafe { release_holding(thread, shown) };
    }
}

/// # Safety
/// The innermost Ensure's thread state is attached, and nothing was let go inside that Ensure. There is a [`Glance`].
#[inline(never)]
unsafe fn release_holding(thread: &Thread, shown: usize) {
    // SAFETY: there is an innermost level, and its state is attached to this thread. Each way detaches or deletes the
    // state at most once.
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
/// The innermost Ensure's thread state is attached, and is the first of its thread. There is a [`Glance`].
#[inline(never)]
unsafe fn release_first(thread: &Thread) {
    // SAFETY: the innermost level's state is attached. Its Ensure made it, and nobody else deletes it.
    unsafe {
        // Destructors may use the library, so the level is still there for them. They have released what they
        // ensured.
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
/// The innermost Ensure's thread state is attached and cleared. There is a [`Glance`].
#[inline(never)]
unsafe fn delete_holding(thread: &Thread) {
    // SAFETY: attached and cleared, by this function's contract. `PyThreadState_DeleteCurrent` needs the same.
    unsafe {
        let hold = pop(thread);
        Glance::again().api().PyThreadState_DeleteCurrent();
        give_back(thread, hold);
    }
}

/// Takes the innermost level away, and returns its hold.
///
/// # Safety
/// There is a level.
#[inline(always)]
unsafe fn pop(thread: &Thread) -> Option<Hold> {
    let hold = thread.levels.top().hold;
    // SAFETY: there is a level, by this function's contract.
    unsafe { thread.levels.pop() };
    hold
}

/// Undoes the innermost Ensure of this thread, or an outer one. `shown` is what the Ensure returned, if its caller
/// took a token.
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
    if python::attached(py, state, Some(&thread.found)).state != state {
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

/// Returns the index of the outer Ensure that has this token, if that Ensure may be released before those inside it.
/// It may if all of them found the same thread state attached, and leave it attached. Then the order in which they
/// are released carries no meaning, as with `PyGILState_Release`: two greenlets or coroutines of a thread may end in
/// any order.
fn outer(thread: &Thread, shown: usize) -> Option<usize> {
    let levels = &thread.levels;
    let index = levels.iter().position(|level| shown != 0 && level.token == shown)?;
    let state = levels.get(index)?.state;
    let reuses = |level: Level| {
        level.state == state && matches!(level.way, Way::Reused) && level.let_go.is_untouched()
    };
    levels.iter().skip(index).all(reuses).then_some(index)
}

/// Releases the Ensure at `index`.
fn take_out(thread: &Thread, index: usize) {
    let Some(level) = thread.levels.get(index) else { return };
    thread.levels.remove(index);
    give_back(thread, level.hold);
}

/// Undoes the innermost Ensure of this thread, whose thread state is attached.
fn undo(py: &'static Api, thread: &Thread) {
    let last = thread.levels.innermost();
    if let Some(level) = last.filter(|level| level.way.creates()) {
        // This runs destructors, which may use the library, so the level is still there for them.
        // SAFETY: the Ensure made the thread state, so it is own. `release` has checked that it is attached.
        unsafe { py.PyThreadState_Clear(level.state) };
    }
    // The level is read again, because its hold may have changed. Destructors have released what they ensured.
    let Some(level) = thread.levels.innermost() else { return };
    let (mut told, mut before) = (None, null_mut());
    // SAFETY: the level's state is attached to this thread. A state that the Ensure made is deleted, and a state that
    // it found detached is detached.
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
    // The hold is given back only now: the interpreter may be gone as soon as nothing holds it.
    give_back(thread, level.hold);
    if !before.is_null() {
        // SAFETY: `before` was attached to this thread before the Ensure. If its interpreter finalizes, the thread
        // sleeps, as in any return to that interpreter.
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
