//! The seatbelt: protects `PyGILState_Ensure` and `PyGILState_Release` for programs as they are.
//!
//! Once the seatbelt is on, every call of CPython's two functions comes to `ensure` and `release`. They hold the
//! interpreter for the time of the call. `patch` writes the jumps. pybind11 and cffi do the work of the two
//! functions by themselves, with `PyThreadState_New`, `PyEval_AcquireThread` and `PyThreadState_DeleteCurrent`. So
//! these three are served too (`scopes`). For all other callers they do what they did before.
//!
//! Imports `interpreter` and the modules below it. Read `ensure` first, then `call` and `enter`. `protect` switches
//! the seatbelt on. `watched` is for processes that are watched. `arrival` serves a CPython that comes later
//! than the library.

pub(crate) mod enter;
pub(crate) mod copies;
pub(crate) mod call;
mod release;
mod ensure;
mod scopes;
mod watched;
pub(crate) mod choose;
#[cfg(pep788_redirects)]
mod imports;
#[cfg(pep788_redirects)]
mod views;
pub(crate) mod protect;
#[cfg(pep788_redirects)]
pub(crate) mod arrival;
