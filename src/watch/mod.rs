//! Notes what threads do, in a file that outlives the process (`PEP788_WATCH`), for `python -m pep788 watch`.
//!
//! Imports `thread` and what is below it. Read `file` first, then `threads`, then what you need.

pub(crate) mod file;
#[cfg(pep788_redirects)]
mod maps;
#[cfg(pep788_redirects)]
mod disturb;
#[cfg(pep788_redirects)]
mod alarm;
#[cfg(not(pep788_redirects))]
mod elsewhere;
#[cfg(not(pep788_redirects))]
use elsewhere::{disturb, maps};
pub(crate) mod functions;
pub(crate) mod phases;
pub(crate) mod threads;
#[cfg(pep788_redirects)]
mod stops;
#[cfg(pep788_redirects)]
pub(crate) mod begin;
