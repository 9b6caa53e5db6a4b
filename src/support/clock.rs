//! A clock that never goes back, in milliseconds.

/// Returns the time in milliseconds. It is never 0.
pub(crate) fn clock() -> u64 {
    clock_of(libc::CLOCK_MONOTONIC)
}

/// Returns the same time in steps of a few milliseconds, and takes a few nanoseconds.
pub(crate) fn coarse_clock() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    clock_of(CLOCK)
}

fn clock_of(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000 + 1
}
