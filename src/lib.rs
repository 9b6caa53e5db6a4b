//! PEP 788 for every CPython.

#![deny(unsafe_op_in_unsafe_fn)]

mod attach;
#[allow(non_snake_case)]
pub mod capi;
mod daemon;
mod finalize;
mod fork;
mod gate;
mod interpreter;
mod python;
mod report;
mod settings;
mod sync;
