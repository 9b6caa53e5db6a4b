//! PEP 788 for every CPython: native threads that call into Python survive its end.
//!
//! A *guard* keeps an interpreter from finalizing. A *view* names an interpreter, and is promoted to a guard as long
//! as that is safe. *Ensure* attaches the calling thread, and *Release* restores what was attached before. CPython
//! has these from 3.15 on. This library brings them to 3.9 and later, in two dialects: the API that was accepted, and
//! a draft of it with strong and weak references.
//!
//! The code is in layers, which are listed below from the lowest to the highest. Each layer imports only from those
//! before it. The first lines of each folder's `mod.rs` say what the layer is for, and in which order to read it.
//!
//! The way of a call: [`capi`] checks the arguments, and finds what a handle stands for (a guard is a record's
//! address and a few bits). `interpreter` finds the record of an interpreter, and makes one at the first use. `gate`
//! says whether a guard may still be taken, and counts it. `attach` gives the thread its thread state, and notes the
//! Ensure on the thread's stack (`thread`). [`View`], [`Guard`] and [`Attached`] are the same for Rust.
//!
//! The way of an exit: `exit` has a callback in the interpreter's own `atexit`, which is installed at the first use.
//! The callback waits until the gate can be closed. `seatbelt` is for programs that know nothing of all this: on
//! request the library serves CPython's `PyGILState_Ensure` and `PyGILState_Release`.
//!
//! `docs/design.md` has the picture and the reasons.

// Unit tests and the model checker use `std`.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
// Some things are there for the seatbelt alone.
#![cfg_attr(not(pep788_redirects), allow(dead_code, unused_imports, unused_macros))]

#[cfg(not(target_has_atomic = "64"))]
compile_error!("libpep788 needs atomic operations of 64 bits, which this processor does not have");

extern crate alloc;

// A Rust program that uses the library has `std`, and so its allocator and its panics. A library for C is compiled with
// `--cfg pep788_c_library`, and brings its own: `std` would make it 250 KB longer.
#[cfg(not(any(test, pep788_c_library)))]
extern crate std;

// The layers, from the lowest to the highest. Each layer imports from those above it in this list, never from one
// below (`tests/strata.rs`).
#[cfg(not(loom))]
mod os;
pub(crate) mod support;
#[cfg(not(loom))]
mod system;
mod gate;
#[cfg(not(loom))]
mod patch;
#[cfg(pep788_c_library)]
mod panic;
#[cfg(not(loom))]
mod python;
#[cfg(not(loom))]
mod thread;
#[cfg(not(loom))]
mod trace;
#[cfg(not(loom))]
mod watch;
#[cfg(not(loom))]
mod attach;
#[cfg(not(loom))]
mod exit;
#[cfg(not(loom))]
mod interpreter;
#[cfg(not(loom))]
mod seatbelt;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod start;
#[cfg(not(loom))]
#[allow(non_snake_case)]
pub mod capi;
#[cfg(not(loom))]
mod safe;
#[cfg(not(loom))]
pub use safe::{keep, Attached, Guard, View};
