//! What the kernel and the loader tell about this process, its threads and their stacks.
//!
//! Imports `support`. Read `generation`, then what you need.

pub(crate) mod generation;
#[cfg(target_os = "linux")]
pub(crate) mod tasks;
pub(crate) mod names;
pub(crate) mod stack;
pub(crate) mod symbols;
pub(crate) mod worker;
pub(crate) mod waits;
