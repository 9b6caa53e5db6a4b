//! The names and numbers of threads, as reports show them.

use crate::support::short_text::ShortText;

/// Returns the name of a thread.
///
/// # Safety
/// The thread is alive.
pub(crate) unsafe fn thread_name(thread: libc::pthread_t) -> ShortText<16> {
    let mut name = [0u8; 64];
    // SAFETY: the thread is alive, by this function's contract. The place is valid, has this size, and stays
    // NUL-terminated.
    unsafe { libc::pthread_getname_np(thread, name.as_mut_ptr().cast(), name.len()) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    ShortText::of(&name[..length])
}

/// Returns the calling thread's name.
pub(crate) fn this_name() -> ShortText<16> {
    // SAFETY: `pthread_self` has no preconditions, and the calling thread is alive.
    unsafe { thread_name(libc::pthread_self()) }
}

/// Returns the calling thread's number, by which debuggers and `threading.Thread.native_id` know the thread.
pub(crate) fn this_id() -> u64 {
    #[cfg(target_os = "linux")]
    return super::tasks::this_thread() as u64;
    #[cfg(not(target_os = "linux"))]
    {
        let mut id = 0;
        // SAFETY: `id` is a valid place, and 0 stands for the calling thread.
        unsafe { libc::pthread_threadid_np(0, &mut id) };
        id
    }
}
