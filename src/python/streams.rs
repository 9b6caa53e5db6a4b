//! Flushes Python's standard streams, takes their locks for a moment, and replaces the streams.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::api::{Api, PyObject};
use super::find::get_or_fatal;
use super::objects::{loaded_module, sys, tuple, KeepException, MethodDef, Owned};
use crate::os::this_id;

/// The module that has the classes of streams. Python has this module before it has streams.
const IO: &CStr = c"_io";

/// The names in `sys` under which Python has its streams for output.
const NAMES: [&CStr; 4] = [c"stdout", c"stderr", c"__stdout__", c"__stderr__"];

/// Flushes the streams that have a buffer of CPython's own class. What a stream raises comes again when CPython flushes
/// the stream. A method that a program has put in place of the stream's own is not called: CPython calls it only when
/// finalization has begun.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn flush(py: &'static Api) {
    for name in NAMES {
        // SAFETY: attached, by this function's contract.
        unsafe {
            let _exception = KeepException::new(py);
            let flushed = there(py, name).and_then(|stream| {
                let io = loaded_module(py, IO)?;
                buffer_of(&io, &stream)?;
                let flush = io.attribute(c"TextIOWrapper")?.attribute(c"flush")?;
                flush.call(Some(&stream))
            });
            drop(flushed);
            py.PyErr_Clear();
        }
    }
}

/// Keeps `sys.stdin` from being freed. That would take the lock of its buffer, which a thread has that waits for input.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn keep_input(py: &'static Api) {
    for name in [c"stdin", c"__stdin__"] {
        // SAFETY: attached, by this function's contract.
        let _never_freed = unsafe { there(py, name) }.map(Owned::into_ptr);
    }
}

/// Takes the locks of the streams' buffers, and gives them back. Gives up the GIL only if it has to wait for a lock.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn take_locks_for_a_moment(py: &'static Api) {
    for name in NAMES {
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

/// Returns whether other threads may run Python code while the calling thread is attached.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn has_no_gil(py: &'static Api) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        // There since 3.13. It tells of the GIL as it is now, because a module may have turned it on.
        let has_gil = sys(py, c"_is_gil_enabled").and_then(|function| function.call(None));
        py.PyErr_Clear();
        has_gil.is_some_and(|has_gil| !has_gil.is_true())
    }
}

/// Returns whether other threads are in Python code, which they may go on with. If an audit hook refuses to tell, they
/// are taken to be.
///
/// # Safety
/// The calling thread is attached.
pub(crate) unsafe fn others_are_in_python(py: &'static Api) -> bool {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let own = usize::from(!py.PyEval_GetFrame().is_null());
        // A frame for each thread that is in Python code, and for this one if it is.
        let frames = sys(py, c"_current_frames").and_then(|function| function.call(None));
        let count = frames.and_then(|frames| frames.attribute(c"__len__")?.call(None));
        let others = count.map(|count| py.PyLong_AsUnsignedLong(count.as_ptr()) as usize > own);
        py.PyErr_Clear();
        others.unwrap_or(true)
    }
}

/// Gives `sys` new streams, on the same files, for `stdout`, `stderr`, `__stdout__` and `__stderr__`. The old streams
/// are never freed, because that needs their locks. A stream that is not an `io.TextIOWrapper` with an
/// `io.BufferedWriter` stays.
///
/// If `others_run`, only the calling thread has the new streams. Other threads would take their locks before
/// finalization begins. So `sys` gets an object that leads each thread to its own stream.
///
/// # Safety
/// The calling thread is attached. From the moment when the first stream is replaced until this function returns, it
/// does not give up the GIL.
pub(crate) unsafe fn renew(py: &'static Api, others_run: bool) {
    // Relaxed: only this thread finds its own number here, and the others find a number that is not theirs.
    OWNER.store(this_id(), Ordering::Relaxed);
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        let is_there = |name, stream: &Owned| {
            there(py, name).is_some_and(|found| found.as_ptr() == stream.as_ptr())
        };
        // All new streams are made before one of them is in use, because other threads may run meanwhile.
        let renewed = NAMES.map(|name| {
            let old = there(py, name)?;
            // Two names may have the same stream.
            if NAMES.iter().find(|first| is_there(first, &old)) != Some(&name) {
                return None;
            }
            let new = copy(py, &old);
            py.PyErr_Clear();
            let new = new?;
            if !others_run {
                return Some((old, new));
            }
            let dispatcher = for_this_thread(py, &old, &new);
            py.PyErr_Clear();
            // Never freed: its end would close the file of the old one.
            let _never_freed = new.into_ptr();
            Some((old, dispatcher?))
        });
        for (old, new) in renewed.into_iter().flatten() {
            for name in NAMES {
                if is_there(name, &old) {
                    py.PySys_SetObject(name.as_ptr(), new.as_ptr());
                }
            }
            let _never_freed = old.into_ptr();
        }
        py.PyErr_Clear();
    }
}

/// The number of the thread that has the new streams.
static OWNER: AtomicU64 = AtomicU64::new(0);

static ATTRIBUTE: MethodDef = MethodDef::one_argument(
    c"pep788_stream_of_this_thread",
    attribute_for_this_thread,
    c"An attribute of the stream that the calling thread writes to.",
);

/// Makes an object that behaves like `new` in the calling thread, and like `old` in other threads. Returns `None` if
/// an exception is set.
///
/// The object is a module, because a module asks a function for attributes that it does not have.
///
/// # Safety
/// The calling thread is attached.
unsafe fn for_this_thread(py: &'static Api, old: &Owned, new: &Owned) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let attribute = ATTRIBUTE.function(py, &tuple(py, &[old, new])?)?;
        let name = Owned::new(py, py.PyUnicode_FromString(c"stream".as_ptr()))?;
        let module = loaded_module(py, IO)?.attribute(c"__class__")?.call(Some(&name))?;
        let members = py.PyModule_GetDict(module.as_ptr());
        let set = py.PyDict_SetItemString(members, c"__getattr__".as_ptr(), attribute.as_ptr());
        (set == 0).then_some(module)
    }
}

/// CPython calls this with the two streams and the name of an attribute that the object itself does not have.
unsafe extern "C" fn attribute_for_this_thread(
    both: *mut PyObject,
    name: *mut PyObject,
) -> *mut PyObject {
    let py = get_or_fatal("pep788_stream_of_this_thread");
    let is_owner = OWNER.load(Ordering::Relaxed) == this_id();
    // SAFETY: CPython calls this function in an attached thread. The stream is borrowed from the tuple.
    unsafe { py.PyObject_GetAttr(py.PyTuple_GetItem(both, isize::from(is_owner)), name) }
}

/// Returns a stream of `sys`. Returns `None` if there is no such stream, or if it is Python's `None`.
///
/// # Safety
/// The calling thread is attached.
unsafe fn there(py: &'static Api, name: &CStr) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe { sys(py, name).filter(|stream| !py.is_none(stream.as_ptr())) }
}

/// Makes a stream like this one, without a buffer, on the same file. A stream without a buffer has no lock, and
/// nothing stays in it if CPython does not free it. `python -u` has such streams. Returns `None` if the stream is of another
/// kind, or if an exception is set.
///
/// # Safety
/// The calling thread is attached.
unsafe fn copy(py: &'static Api, stream: &Owned) -> Option<Owned> {
    // SAFETY: attached, by this function's contract.
    unsafe {
        let io = loaded_module(py, IO)?;
        let file = buffer_of(&io, stream)?.attribute(c"raw")?;
        let write_through = Owned::new(py, py.PyLong_FromUnsignedLong(1))?;
        let lines = Owned::new(py, py.PyUnicode_FromString(c"\n".as_ptr()))?;
        let arguments = [
            &file,
            &stream.attribute(c"encoding")?,
            &stream.attribute(c"errors")?,
            &lines,
            &stream.attribute(c"line_buffering")?,
            &write_through,
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
