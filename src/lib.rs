//! PEP 788 for every CPython: native threads that call into Python survive its end.
//!
//! A *guard* keeps an interpreter from finalizing; a *view* names one, and is promoted to a guard
//! as long as that is safe; *Ensure* attaches the calling thread, *Release* restores what was
//! attached before. CPython has these from 3.15 on, and this library gives them to 3.9 and later,
//! in two dialects: the API that was accepted, and a draft of it with strong and weak references.
//!
//! How the parts work together, with the way of a call from top to bottom:
//!
//! - [`capi`] holds the exported functions: it checks arguments, turns handles into records and
//!   failures into what each dialect promises. A guard handle is a record's address and a few bits.
//!   [`View`], [`Guard`] and [`Attached`] are the same for Rust.
//! - `attach` gives a thread its thread state, and keeps a stack of Ensures per thread (`levels`); `daemon`
//!   knows which thread states hold their interpreter; `interpreter` finds the record of an
//!   interpreter, and makes one at first use.
//! - `thread` is what the library knows of one thread; `tally` counts the holds that a thread takes and
//!   gives back by itself, by way of the two fences of `fence`.
//! - `record` is where records come from, and how long each is one interpreter's; `gate` counts,
//!   per record, the guards that are out, and says who may still take one. These two know nothing
//!   of Python.
//! - `finalize` is the other side: a callback in the interpreter's own `atexit`, installed at first
//!   use, that waits until the gate can be closed, while `report` tells the user for whom; if
//!   asked, with what `trace` noted when each guard was taken (`symbols` names its functions), and
//!   by `say`, which no stderr can stop.
//! - `seatbelt` is for programs that know nothing of all this: on request it has CPython's `PyGILState_Ensure` and
//!   `PyGILState_Release` served by the library.
//! - `fork` makes a forked child start afresh, and `birth` sees to it that it can start; `settings` are the environment variables; `memory`
//!   is for allocations that may fail.
//! - `python` is the only part that calls CPython, by functions found at run time.
//!
//! `docs/design.md` gives the reasons.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[cfg(not(loom))]
#[allow(non_snake_case)]
pub mod capi;

#[cfg(not(loom))]
mod safe;
#[cfg(not(loom))]
pub use safe::{Attached, Guard, View};

#[cfg(not(loom))]
mod attach;
#[cfg(not(loom))]
mod daemon;
#[cfg(not(loom))]
mod interpreter;
#[cfg(not(loom))]
mod levels;
#[cfg(not(loom))]
mod thread;

// `--cfg loom` builds these alone, for `make model`.
mod fence;
#[cfg_attr(loom, allow(dead_code))]
mod gate;
#[cfg_attr(loom, allow(dead_code))]
mod record;
#[cfg_attr(loom, allow(dead_code))]
mod tally;

#[cfg(not(loom))]
mod finalize;
#[cfg(not(loom))]
mod late;
#[cfg(not(loom))]
mod report;
#[cfg(not(loom))]
mod say;
#[cfg(not(loom))]
mod seatbelt;
#[cfg(not(loom))]
mod stack;
#[cfg(not(loom))]
mod symbols;
#[cfg(not(loom))]
mod trace;

#[cfg(not(loom))]
mod birth;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod kept;
mod memory;
#[cfg(not(loom))]
mod settings;
mod sync;

#[cfg(not(loom))]
mod python;
