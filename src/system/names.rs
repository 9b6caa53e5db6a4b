//! What a thread is called in reports.

use crate::support::short_text::ShortText;

/// The name of a thread, which lives.
pub(crate) fn thread_name(thread: libc::pthread_t) -> ShortText<16> {
    let mut name = [0u8; 64];
    // SAFETY: a living thread, says the caller, and a valid place of that size, which stays NUL-terminated.
    unsafe { libc::pthread_getname_np(thread, name.as_mut_ptr().cast(), name.len()) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    ShortText::of(&name[..length])
}

/// The calling thread's name.
pub(crate) fn this_name() -> ShortText<16> {
    // SAFETY: no preconditions.
    thread_name(unsafe { libc::pthread_self() })
}

/// The calling thread's number: what debuggers and `threading.Thread.native_id` know it by.
pub(crate) fn this_id() -> u64 {
    #[cfg(target_os = "linux")]
    return super::tasks::this_thread() as u64;
    #[cfg(not(target_os = "linux"))]
    {
        let mut id = 0;
        // SAFETY: a valid place; 0 stands for the calling thread.
        unsafe { libc::pthread_threadid_np(0, &mut id) };
        id
    }
}
