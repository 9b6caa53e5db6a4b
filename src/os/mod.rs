//! What differs between operating systems: one file for each of them, with the same functions.
//!
//! Imports nothing of the crate. `linux.rs`, `macos.rs` have what only one system has, or has in its own way, `musl.rs`
//! what that C library has in its own way. `posix.rs` and `stderr.rs` have what the two systems have in common.
//! `words_windows.rs`, `loaded.rs`, `names.rs` and `windows.rs` are for Windows. Outside of this folder `cfg` asks for no
//! system; what there is for Linux only (`patch`, most of `seatbelt`) asks for `pep788_redirects`.

#[cfg(all(unix, pep788_c_library))]
mod heap;
#[cfg(all(windows, pep788_c_library))]
mod heap_windows;
#[cfg(pep788_c_library)]
mod personality;
#[cfg(all(unix, not(all(target_os = "linux", not(pep788_pthread_locks)))))]
mod pthread;
mod place;
#[cfg(unix)]
mod posix;
#[cfg(unix)]
mod stderr;
#[cfg(unix)]
pub(crate) mod words;
#[cfg(target_os = "linux")]
pub(crate) mod tasks;
#[cfg(target_os = "linux")]
mod elf;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
mod musl;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(windows)]
pub(crate) mod words_windows;
#[cfg(windows)]
mod loaded;
#[cfg(windows)]
mod names;
#[cfg(windows)]
mod windows;
#[cfg(any(windows, all(target_os = "linux", not(pep788_pthread_locks))))]
mod futex;

#[cfg(any(windows, all(target_os = "linux", not(pep788_pthread_locks))))]
pub(crate) use futex::{Condvar, Mutex, MutexGuard};
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(windows)]
pub(crate) use loaded::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
pub(crate) use musl::*;
pub(crate) use place::Place;
#[cfg(unix)]
pub(crate) use posix::*;
// `make sanitize` uses `--cfg pep788_pthread_locks`.
#[cfg(all(unix, not(all(target_os = "linux", not(pep788_pthread_locks)))))]
pub(crate) use pthread::{Condvar, Mutex, MutexGuard};
#[cfg(unix)]
pub(crate) use stderr::say;
#[cfg(windows)]
pub(crate) use windows::*;
#[cfg(windows)]
pub(crate) use words_windows::{self as words, set_value, value_of, Key};

/// Whether the C library is glibc.
pub(crate) const HAS_GLIBC: bool = cfg!(all(target_os = "linux", target_env = "gnu"));
