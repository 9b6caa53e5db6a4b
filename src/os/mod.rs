//! What differs between operating systems: one file for each of them, with the same functions.
//!
//! Imports nothing of the crate. `linux.rs`, `macos.rs` have what only one system has, or has in its own way. `posix.rs` and
//! `stderr.rs` have what these two have in common. Outside of this folder `cfg` asks for no system; what there is
//! for Linux only (`patch`, most of `seatbelt`) asks for `pep788_redirects`.

mod posix;
mod stderr;
pub(crate) mod words;
#[cfg(target_os = "linux")]
pub(crate) mod tasks;
#[cfg(target_os = "linux")]
mod elf;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
pub(crate) use posix::*;
pub(crate) use stderr::say;
