//! The C ABI and nothing else: argument checks, how functions fail, and the comments for the headers.
//!
//! Imports everything. Read `handle` (what a guard is for the caller), then `accepted` and `ensure`. The two
//! dialects, the accepted API and the draft, differ in names and in how they answer, not in what they do. What
//! their functions share is in `shared`.
//!
//! No code in the crate calls an exported function, or trusts its address. The loader may bind the library's own
//! reference to the first function that it finds under that name, in the interpreter or in another copy of the
//! library. What the accepted functions do is in private functions next to them.

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
mod keep;

pub use accepted::*;
pub use doctor::*;
pub use draft::*;
pub use ensure::*;
pub use gilstate::*;
pub use keep::*;
