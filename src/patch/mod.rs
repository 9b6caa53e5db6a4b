//! Changes code that is not the library's own while threads run it.
//!
//! Imports `system` and the modules below it. Read `patch` first, then `stop`.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) mod signal;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod reserved;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod stop;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod change;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", all(target_arch = "aarch64", test))))]
mod x86_64;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", all(target_arch = "x86_64", test))))]
mod aarch64;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod page;
#[cfg_attr(
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "elsewhere.rs"
)]
#[allow(clippy::module_inception)]
pub(crate) mod patch;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) mod original;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) mod slots;
