//! Flushes Python's standard streams, takes their locks for a moment, and replaces the streams.

use std::ffi::CStr;

use super::api::Api;
use super::objects::{loaded_module, sys, tuple, KeepException, Owned};

/// The module that has the classes of streams. Python has this module before it has streams.
const IO: &CStr = c"_io";

/// Flushes `sys.stdout` and `sys.stderr`. What a stream raises comes again when CPython flushes the stream.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn flush(py: &'static Api) {
    for name in [c"stdout", c"stderr"] {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let _exception = KeepException::new(py);
            let flush = there(py, name).and_then(|stream| stream.attribute(c"flush"));
            let _ = flush.and_then(|flush| flush.call(None));
            py.PyErr_Clear();
        }
    }
}

/// Takes the locks of the streams' buffers, and gives them back. Gives up the GIL only if it has to wait for a lock.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn take_locks_for_a_moment(py: &'static Api) {
    for name in [c"stdout", c"stderr", c"__stdout__", c"__stderr__"] {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let _exception = KeepException::new(py);
            // This writes nothing, not even what is in the buffer.
            let written = there(py, name).and_then(|stream| {
                let buffer = buffer_of(&loaded_module(py, IO)?, &stream)?;
                let text = Owned::new(py, py.PyUnicode_FromString(c"".as_ptr()))?;
                let nothing = text.attribute(c"encode")?.call(None)?;
                buffer.attribute(c"write")?.call(Some(&nothing))
            });
            drop(written);
            py.PyErr_Clear();
        }
    }
}

/// Gives `sys` new streams, on the same files, for `stdout`, `stderr`, `__stdout__` and `__stderr__`. The old streams
/// are never freed, because that needs their locks. A stream that is not an `io.TextIOWrapper` with an
/// `io.BufferedWriter` stays.
///
/// # Safety
/// The calling thread is attached. From the moment when the first stream is replaced until this function returns, it
/// does not give up the GIL.
pub(crate) unsafe fn renew(py: &'static Api) {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let pairs = [(c"stdout", c"__stdout__"), (c"stderr", c"__stderr__")];
        // All new streams are made before one of them is in use, because other threads may run meanwhile.
        let renewed = pairs.map(|(name, first)| {
            let old = there(py, name).or_else(|| there(py, first))?;
            let new = copy(py, &old);
            py.PyErr_Clear();
            Some((old, new?))
        });
        for ((name, first), streams) in pairs.into_iter().zip(renewed) {
            let Some((old, new)) = streams else { continue };
            for name in [name, first] {
                if there(py, name).is_some_and(|stream| stream.as_ptr() == old.as_ptr()) {
                    py.PySys_SetObject(name.as_ptr(), new.as_ptr());
                }
            }
            let _never_freed = old.into_ptr();
        }
        py.PyErr_Clear();
    }
}

/// Returns a stream of `sys`. Returns `None` if there is no such stream, or if it is Python's `None`.
///
/// # Safety
/// The calling thread is attached.
unsafe fn there(py: &'static Api, name: &CStr) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe { sys(py, name).filter(|stream| !py.is_none(stream.as_ptr())) }
}

/// Makes a stream like this one, with a buffer of its own, on the same file. Returns `None` if the stream is of
/// another kind, or if an exception is set.
///
/// # Safety
/// The calling thread is attached.
unsafe fn copy(py: &'static Api, stream: &Owned) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let io = loaded_module(py, IO)?;
        let raw = buffer_of(&io, stream)?.attribute(c"raw")?;
        let buffer = io.attribute(c"BufferedWriter")?.call(Some(&raw))?;
        let lines = Owned::new(py, py.PyUnicode_FromString(c"\n".as_ptr()))?;
        let arguments = [
            &buffer,
            &stream.attribute(c"encoding")?,
            &stream.attribute(c"errors")?,
            &lines,
            &stream.attribute(c"line_buffering")?,
            &stream.attribute(c"write_through")?,
        ];
        let arguments = tuple(py, &arguments)?;
        let kind = io.attribute(c"TextIOWrapper")?;
        Owned::new(py, py.PyObject_CallObject(kind.as_ptr(), arguments.as_ptr()))
    }
}

/// Returns the buffer of a stream, if the stream and the buffer are exactly of CPython's own classes.
fn buffer_of(io: &Owned, stream: &Owned) -> Option<Owned> {
    let is_a = |object: &Owned, class: &CStr| {
        let (class, own) = (io.attribute(class), object.attribute(c"__class__"));
        class.zip(own).is_some_and(|(class, own)| class.as_ptr() == own.as_ptr())
    };
    let buffer = is_a(stream, c"TextIOWrapper").then(|| stream.attribute(c"buffer"))??;
    is_a(&buffer, c"BufferedWriter").then_some(buffer)
}
