//! Changes code that is not the library's own while threads run it.
//!
//! Imports `os` and the modules above it. Read `patch` first, then `stop`.

#[cfg(pep788_redirects)]
pub(crate) mod signal;
#[cfg(pep788_redirects)]
mod reserved;
#[cfg(pep788_redirects)]
mod stop;
#[cfg(pep788_redirects)]
mod change;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", all(target_arch = "aarch64", test))))]
mod x86_64;
#[cfg(all(target_os = "linux", any(target_arch = "aarch64", all(target_arch = "x86_64", test))))]
mod aarch64;
#[cfg(pep788_redirects)]
mod page;
#[cfg(pep788_redirects)]
mod mappings;
#[cfg_attr(
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "elsewhere.rs"
)]
#[allow(clippy::module_inception)]
pub(crate) mod patch;
#[cfg(pep788_redirects)]
pub(crate) mod original;
#[cfg(pep788_redirects)]
pub(crate) mod slots;
