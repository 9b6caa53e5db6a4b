//! Counts how often the calling thread had to wait.

/// Returns how often the thread gave up its processor by itself: for a lock, or in a system call. Returns 0 where the
/// system does not tell.
pub(crate) fn how_often_this_thread_waited() -> i64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a valid place. If the call fails, the zeroes say that nothing was used.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        usage.ru_nvcsw as i64
    }
    #[cfg(not(target_os = "linux"))]
    0
}
