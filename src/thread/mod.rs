//! What the library knows of one thread: its holds, its stack of Ensures, and what is attached to it.
//!
//! Imports `python` and what is below it. Read `thread` (all data of one thread), then `hold`, `levels` and
//! `attached`.

pub(crate) mod refusal;
pub(crate) mod slip;
pub(crate) mod hold;
pub(crate) mod levels;
pub(crate) mod seen;
pub(crate) mod legacy;
pub(crate) mod birth;
pub(crate) mod kept_state;
#[allow(clippy::module_inception)]
pub(crate) mod thread;
pub(crate) mod attached;
