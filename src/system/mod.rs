//! What the kernel and the loader tell about this process, its threads and their stacks.
//!
//! Imports `os` and `support`. Read `generation`, then what you need.

pub(crate) mod generation;
pub(crate) mod names;
pub(crate) mod stack;
pub(crate) mod symbols;
pub(crate) mod worker;
