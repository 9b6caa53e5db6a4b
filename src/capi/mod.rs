//! The C ABI and nothing else: argument checks, the conventions for failure, and the comments
//! that become the headers.
//!
//! Imports everything. Read `handle` (what a guard is for the caller), then `accepted` and `ensure`. What the functions of
//! both dialects share is in `shared`: they differ in names and in how they answer, not in what they do.
//!
//! Nothing in the crate calls an exported function, or trusts its address: the loader may bind
//! our own reference to what is found first under that name, in the interpreter or in another copy of
//! the library. What the accepted ones do is in private functions next to them.

// The contract of each function is in its comment, for C programmers.
#![allow(clippy::missing_safety_doc, non_camel_case_types)]

mod handle;
mod shared;
mod ways;
mod quick;
mod ensure;
mod accepted;
mod draft;
mod gilstate;
mod doctor;

pub use accepted::*;
pub use doctor::*;
pub use draft::*;
pub use ensure::*;
pub use gilstate::*;
