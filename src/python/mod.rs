//! The only code that touches CPython: functions found at run time, and what differs between versions.
//!
//! Imports `gate` (the address of an interpreter), `patch` (the copy of a function) and what is below them. Read
//! `api` and `current`, then what you need.
//!
//! # Contracts
//!
//! Calls into CPython are sound under a few conditions that are always the same. `# Safety` sections and SAFETY
//! comments name them:
//!
//! - **attached**: a thread state of that interpreter is attached to the calling thread. With a GIL, the thread holds
//!   the GIL too. The interpreter cannot go away before the thread detaches.
//! - **held**: a guard or a hold keeps the interpreter from finalizing until the caller gives it back. So the
//!   interpreter is alive, and a thread state can be made in it.
//! - **own**: a thread state that belongs to the calling thread. No other thread attaches or deletes it, except at
//!   the end of its interpreter.
//! - **room**: the thread's stack of levels has a free place (`thread/levels.rs`).

mod api;
mod find;
mod native;
mod objects;
mod record;
mod layouts;
mod current;
mod gilstate_slot;
mod word;
mod glance;
pub(crate) mod sight;
mod frame;
pub(crate) mod eval;
pub(crate) mod streams;
pub(crate) mod switch_interval;
pub(crate) mod threading;
pub(crate) mod atexit;
pub(crate) mod states;

pub(crate) use api::{c_name, Api, CapsuleDestructor, PyInterpreterState, PyObject, PyThreadState};
pub(crate) use current::{attached, is_made_here, live_interpreter, Attached, Found};
pub(crate) use find::{address_of, fatal, get, get_or_fatal, Finder};
#[cfg(pep788_redirects)]
pub(crate) use find::{is_found, is_in_executable, look_in, usable_version, Late};
pub(crate) use frame::innermost_frame;
pub(crate) use gilstate_slot::{Forgotten, GilstateMemory, GilstateSlot};
pub(crate) use glance::{attached_word, holder, is_of, Glance};
pub(crate) use native::native;
pub(crate) use objects::{is_taken_apart, tuple, Exception, KeepException, MethodDef, Owned};
