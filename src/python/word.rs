//! From 3.12 on: finds where CPython has the attached thread state, so that it is read without a call.
//!
//! CPython keeps it in a thread-local variable, and only a function tells what is in that variable. If the variable
//! is in *static* thread-local storage (`os/words.rs`), its place is the same in every thread.

use super::api::{Api, PyThreadState};
use crate::os::words;

/// Returns how far CPython's variable is from the thread pointer, in bytes. That is the first place if the second
/// one is 0. Otherwise it is one of the two. Returns `None` if that is not known for sure.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn find(py: &Api, state: *mut PyThreadState) -> Option<[isize; 2]> {
    const WORD: usize = size_of::<usize>();
    let storage = words::storage_of(py.unchecked_current_itself() as usize)?;
    // CPython's variable is one of the whole words that have this value. On 3.15 another such word is what
    // `PyGILState` takes for the thread's own thread state.
    let all = storage.start.next_multiple_of(WORD)..=storage.end.checked_sub(WORD)?;
    let mut same = all.step_by(WORD).filter(|word| {
        // SAFETY: this is the storage of the calling thread, and only this thread changes it.
        (unsafe { (*word as *const *mut PyThreadState).read_volatile() }) == state
    });
    let (Some(one), other, None) = (same.next(), same.next(), same.next()) else { return None };
    let other = other.map_or(Some(0), words::place_of)?;
    Some([words::place_of(one)?, other])
}
