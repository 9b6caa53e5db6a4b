//! Notes the first and the last Python function that a native thread calls.
//!
//! CPython tells nobody which function a thread calls. But it has a place for a function that evaluates frames (PEP
//! 523). The library puts one there for the time from a thread's attaching to its first frame: for the first call of
//! a thread, and then ten times a second at most. If somebody else has one there, or threads run without a GIL,
//! nothing is noted.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::file::{file, File, Slot, ARMED, OF_PYTHON};
use crate::python::{self, eval, Api, KeepException, PyThreadState};

extern "C" {
    // These are in `calls.c`, which is linked into this library. A thread may be ended in a frame that it evaluates,
    // so the function that is called in place of CPython's is not in Rust.
    fn pep788_evaluate(state: *mut c_void, frame: *mut c_void, throwing: c_int) -> *mut c_void;
    static pep788_note_frame: AtomicPtr<c_void>;
    static pep788_evaluate_default: AtomicPtr<c_void>;
}

/// How many threads are armed. It changes while a thread is attached, and there is a GIL.
static COUNT: AtomicUsize = AtomicUsize::new(0);

const EVERY: u64 = 100_000_000;

/// Has the next Python function of the calling thread noted, if none has been noted for some time. `now` is in
/// nanoseconds.
pub(super) fn arm(py: &'static Api, slot: &Slot, now: u64) {
    // The main thread and those of `threading` are in Python code all the time.
    if slot.has_flag(OF_PYTHON) || slot.has_flag(ARMED) {
        return;
    }
    let last = &slot.functions[1].noted;
    // Relaxed, here and below: only the thread itself writes, and the GIL orders the rest.
    if now < last.load(Ordering::Relaxed) + EVERY {
        return;
    }
    last.store(now, Ordering::Relaxed);
    let Some(evaluation) = eval::known() else { return };
    // SAFETY: the calling thread is attached, and there is a GIL. C reads the pointers as a whole, after they are
    // stored here.
    let is_on = unsafe {
        pep788_note_frame.store(note as *mut c_void, Ordering::Relaxed);
        pep788_evaluate_default.store(evaluation.default as *mut c_void, Ordering::Relaxed);
        COUNT.load(Ordering::Relaxed) != 0 || evaluation.replace(py, evaluate())
    };
    if is_on {
        COUNT.fetch_add(1, Ordering::Relaxed);
        slot.set_flag(ARMED);
    }
}

/// Takes back what `arm` did, if no function has come meanwhile.
pub(super) fn disarm(py: &'static Api, slot: &Slot) {
    if slot.has_flag(ARMED) {
        slot.clear_flag(ARMED);
        if COUNT.fetch_sub(1, Ordering::Relaxed) == 1 {
            if let Some(evaluation) = eval::known() {
                // SAFETY: the calling thread is attached, and there is a GIL.
                unsafe { evaluation.restore(py, evaluate()) };
            }
        }
    }
}

fn evaluate() -> usize {
    pep788_evaluate as *const () as usize
}

/// Is called by `pep788_evaluate`, with a frame that is about to be evaluated.
unsafe extern "C" fn note(_state: *mut PyThreadState, frame: *mut c_void) {
    let (Some(py), Some(slot)) = (python::get(), file().and_then(File::slot)) else { return };
    if !slot.has_flag(ARMED) {
        return;
    }
    disarm(py, slot);
    // SAFETY: CPython evaluates the frame in this thread, which is attached.
    unsafe {
        let _exception = KeepException::new(py);
        if let Some(code) = eval::known().and_then(|known| known.code_of(py, frame)) {
            let line = code.attribute(c"co_firstlineno");
            let line = line.map_or(0, |line| py.number(line.as_ptr()));
            let name = code.attribute(c"co_qualname").or_else(|| code.attribute(c"co_name"));
            let path = code.attribute(c"co_filename");
            let is_first = slot.functions[0].line.load(Ordering::Relaxed) == 0;
            for function in &slot.functions[usize::from(!is_first)..] {
                function.line.store(line, Ordering::Relaxed);
                function.name.set(name.as_ref().and_then(|it| it.utf8()).unwrap_or_default());
                function.file.set(path.as_ref().and_then(|it| it.utf8()).unwrap_or_default());
            }
        }
        py.PyErr_Clear();
    }
}
