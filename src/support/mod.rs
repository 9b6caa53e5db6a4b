//! Tools that know nothing about Python, thread states or exits.
//!
//! Imports nothing of the crate. Read what you need.

pub(crate) mod sync;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod memory;
#[cfg(not(loom))]
pub(crate) mod short_text;
#[cfg(not(loom))]
pub(crate) mod clock;
#[cfg(not(loom))]
pub(crate) mod kept;
#[cfg(not(loom))]
pub(crate) mod say;
#[cfg(not(loom))]
pub(crate) mod settings;
