//! The seatbelt: `PyGILState_Ensure` and `PyGILState_Release`, for programs as they are.
//!
//! Once it is on, whoever calls CPython's two functions comes to `ensure` and `release`, which hold the interpreter
//! for the time of the call. `patch` writes the jumps. pybind11 and cffi do by themselves what the two do, with
//! `PyThreadState_New`, `PyEval_AcquireThread` and `PyThreadState_DeleteCurrent`: so these are served too (`scopes`), and are
//! as they were for everybody else.
//!
//! Imports `interpreter` and what is below it. Read `ensure`, then `call` and `enter`; how it is switched on: `protect`; a
//! CPython that comes later than the library: `arrival`.

pub(crate) mod enter;
pub(crate) mod copies;
pub(crate) mod call;
mod release;
mod ensure;
mod scopes;
pub(crate) mod choose;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imports;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod views;
pub(crate) mod protect;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) mod arrival;
