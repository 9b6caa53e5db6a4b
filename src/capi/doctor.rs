//! Tells how the library works in this process: for `python -m pep788 doctor`, and for reports of defects.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::ffi::{c_char, c_int, CStr};

use crate::exit::calls::are_protected;
use crate::fork;
use crate::interpreter::records::known_at;
use crate::python::{self, c_name, native, Api};
use crate::support::settings;
use crate::thread::attached::attached;

/// There is no CPython in this process, yet.
pub const PEP788_ENGINE_NONE: c_int = 0;
/// This library.
pub const PEP788_ENGINE_LIBRARY: c_int = 1;
/// The interpreter itself (3.15 and later).
pub const PEP788_ENGINE_NATIVE: c_int = 2;

/// The version of the library that runs, as PEP788_VERSION is that of the headers: "0.1.0".
///
/// Caller: any thread, attached or not. Returns a text that is never freed. Cannot fail.
///
/// Contract: this library's own.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_Version() -> *const c_char {
    const VERSION: &CStr = c_name(concat!(env!("CARGO_PKG_VERSION"), "\0"));
    VERSION.as_ptr()
}

/// Who serves the accepted API in this process.
///
/// Caller: any thread, attached or not, also in a process without Python. From 3.15 on it reads the settings, which stay
/// as they are from then on.
///
/// Returns PEP788_ENGINE_NONE, PEP788_ENGINE_LIBRARY or PEP788_ENGINE_NATIVE. Cannot fail.
///
/// Contract: this library's own.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_Engine() -> c_int {
    match python::get() {
        None => PEP788_ENGINE_NONE,
        Some(py) if native(py).is_some() => PEP788_ENGINE_NATIVE,
        Some(_) => PEP788_ENGINE_LIBRARY,
    }
}

/// Tells who serves PEP 788 in this process, and how: lines of text `name: value`, of the engine and
/// of the exit callback of the attached interpreter (with nothing attached: of the main one), and
/// the settings in force, `NAME=value`. For people; programs should not take it apart.
///
/// Caller: any thread, attached or not, also in a process without Python. Reads the settings, which
/// stay as they are from then on.
///
/// Returns the length of the text in bytes. As much of it as fits is written to `text`, which has
/// room for `size` bytes, with a NUL at its end; nothing is if `size` is 0. Cannot fail.
///
/// Contract: this library's own.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_Doctor(text: *mut c_char, size: usize) -> usize {
    let report = report();
    if size != 0 {
        let fits = report.len().min(size - 1);
        // SAFETY: the caller promises that there is room for `size` bytes.
        unsafe {
            text.copy_from_nonoverlapping(report.as_ptr().cast(), fits);
            text.add(fits).write(0);
        }
    }
    report.len()
}

fn report() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let (python, engine, callback) = match python::get() {
        Some(py) => (
            format!("CPython {}.{}", py.version >> 8, py.version & 0xff),
            if native(py).is_some() { "the interpreter's own" } else { "libpep788" },
            callback(py),
        ),
        None => ("none in this process".to_owned(), "none", "none"),
    };
    let legacy = if are_protected() { "protected" } else { "not protected" };
    let settings = settings::get().lines(are_protected());
    format!(
        "libpep788: {version}\npython: {python}\nengine: {engine}\nexit callback: {callback}\nPyGILState_Ensure: {legacy}\n{settings}"
    )
}

fn callback(py: &'static Api) -> &'static str {
    let state = attached(py);
    // SAFETY: `state` is attached if it is not NULL. Any thread may ask for the main interpreter.
    let interpreter = unsafe {
        match state.is_null() {
            true => py.PyInterpreterState_Main(),
            false => py.PyThreadState_GetInterpreter(state),
        }
    };
    // This does not look the record up by the thread state, because that would install the exit callback.
    fork::watch();
    let record = known_at(py, interpreter);
    match record {
        Some(record) if record.is_installed() => "in place",
        _ if native(py).is_some() => "not needed, the interpreter waits for its guards itself",
        _ => "not yet in place, the first use of the library brings it",
    }
}
