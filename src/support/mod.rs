//! Tools that know nothing about Python, thread states or exits.
//!
//! Imports `os`. Read what you need.

pub(crate) mod sync;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod memory;
#[cfg(not(loom))]
pub(crate) mod clock;
#[cfg(not(loom))]
pub(crate) mod short_text;
#[cfg(not(loom))]
pub(crate) mod kept;
#[cfg(not(loom))]
pub(crate) mod seconds;
#[cfg(not(loom))]
pub(crate) mod settings;
