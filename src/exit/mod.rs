//! How an interpreter's exit waits, and what happens to threads that come too late.
//!
//! Imports `attach` and what is below it. Read `callback` (when an exit waits), `wait`, then `drain` and
//! `stragglers`. For the time after the door has closed, read `late`, `linger`, `bound`, `status` and
//! `writers`.

pub(crate) mod late;
pub(crate) mod calls;
mod report;
pub(crate) mod at_fini;
mod linger;
#[cfg(pep788_redirects)]
mod status;
#[cfg(pep788_redirects)]
pub(crate) mod bound;
mod crowd;
mod drain;
mod stragglers;
mod writers;
pub(crate) mod wait;
pub(crate) mod callback;
