//! The names of threads, as reports show them.

use crate::os;
use crate::support::short_text::ShortText;

/// Returns the name of a thread.
///
/// # Safety
/// The thread is alive, and has this handle (`os::this_handle`).
pub(crate) unsafe fn thread_name(handle: usize) -> ShortText<16> {
    let mut name = [0u8; 64];
    // SAFETY: the thread is alive, by this function's contract.
    unsafe { os::write_name(handle, &mut name) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    ShortText::of(&name[..length])
}

/// Returns the calling thread's name.
pub(crate) fn this_name() -> ShortText<16> {
    // SAFETY: the calling thread is alive.
    unsafe { thread_name(os::this_handle()) }
}
