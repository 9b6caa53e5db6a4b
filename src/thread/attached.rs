//! Tells which thread state is attached to the calling thread, and which Ensures the thread is in.

use core::ptr::null_mut;

use super::levels::{Level, Levels};
use super::thread::Thread;
use crate::gate::record::Record;
use crate::python::{self, Api, Attached, PyThreadState};

/// Returns the Ensures of this thread, outermost first.
#[inline]
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    Thread::known().into_iter().flat_map(|thread| thread.levels.iter())
}

/// Returns this thread's levels, and the index of the innermost one, if that one is of `state`.
pub(crate) fn innermost_in(state: *mut PyThreadState) -> Option<(&'static Levels, usize)> {
    let levels = &Thread::known()?.levels;
    levels.innermost().filter(|level| level.state == state)?;
    Some((levels, levels.len() - 1))
}

/// Returns the thread state that is attached to this thread, or NULL.
#[inline]
pub(crate) fn attached(py: &Api) -> *mut PyThreadState {
    what_is_attached(py).state
}

#[inline]
pub(crate) fn what_is_attached(py: &Api) -> Attached {
    let thread = Thread::known();
    let innermost = thread.and_then(|thread| thread.levels.innermost());
    let ensured = innermost.map_or(null_mut(), |level| level.state);
    python::attached(py, ensured, thread.map(|thread| &thread.found))
}

/// Returns the thread state that is attached to this thread. If there is none, this is a fatal error.
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

/// Returns whether this thread state was made for an Ensure of this thread.
pub(crate) fn was_created(state: *mut PyThreadState) -> bool {
    levels().any(|level| level.state == state && level.way.creates())
}

/// Returns whether this thread is inside an Ensure of this interpreter.
pub(crate) fn is_inside(record: &'static Record) -> bool {
    levels().any(|level| core::ptr::eq(level.record, record))
}
