//! Counts how often the calling thread had to wait, and how often other threads ran.

#[cfg(target_os = "linux")]
use super::tasks::{self, Tasks, Unread};

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

/// Returns how often the other threads of the process have been given a processor so far, all together. Returns `None`
/// where the system does not tell.
pub(crate) fn how_often_others_ran() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let mut sum = 0_u64;
        let mut all = Tasks::open().ok()?;
        for id in all.by_ref().filter(|id| *id != tasks::this_thread()) {
            let mut buffer = [0; 128];
            match tasks::read(id, "schedstat", &mut buffer) {
                // The times for which the thread ran and waited to run, and how often it was given a processor.
                Ok(line) => {
                    let count = line.trim_ascii().rsplit(|byte| *byte == b' ').next()?;
                    sum = sum.wrapping_add(std::str::from_utf8(count).ok()?.parse::<u64>().ok()?);
                }
                Err(Unread::Gone) => {}
                Err(Unread::Error(_)) => return None,
            }
        }
        // Each of them ran at least once. 0 means that the kernel does not count, or has no such files.
        (all.error.is_none() && sum != 0).then_some(sum)
    }
    #[cfg(not(target_os = "linux"))]
    None
}
