//! How many guards are out on an interpreter, and who may still take one. Pure concurrency, under a model checker
//! (`make model`): an interpreter is an address here, and nothing calls Python.
//!
//! Imports `support`. Read `gate`, then `fence` and `tally` (how a thread counts by itself), then `record` and `registry`.

pub(crate) mod fence;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod tally;
#[cfg_attr(loom, allow(dead_code))]
#[allow(clippy::module_inception)]
pub(crate) mod gate;
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod record;
#[cfg(not(loom))]
pub(crate) mod registry;
