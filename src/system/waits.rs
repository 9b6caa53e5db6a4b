//! Whether the calling thread had to wait.

/// How often it gave its processor up of itself: for a lock, or in a system call. Not told everywhere: then always 0.
pub(crate) fn how_often_this_thread_waited() -> i64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: a valid place; zeroed, it is one of no use of anything, if the call fails.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        usage.ru_nvcsw as i64
    }
    #[cfg(not(target_os = "linux"))]
    0
}
