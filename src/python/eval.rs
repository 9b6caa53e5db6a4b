//! CPython's place for a function that evaluates frames (PEP 523).

use core::ffi::c_void;

use super::api::{Api, PyInterpreterState, PyObject};
use super::find::address_of;
use super::objects::Owned;
use crate::support::kept::Kept;

type Set = unsafe extern "C" fn(*mut PyInterpreterState, usize);
type Get = unsafe extern "C" fn(*mut PyInterpreterState) -> usize;
type CodeOf = unsafe extern "C" fn(*mut c_void) -> *mut PyObject;

/// The functions that read and write the place of an interpreter.
pub(crate) struct Evaluation {
    /// The address of CPython's own function.
    pub(crate) default: usize,
    set: Set,
    get: Get,
    /// Returns a new reference to the code of a frame. Not in 3.11.
    code_of: Option<CodeOf>,
}

static FOUND: Kept<Option<Evaluation>> = Kept::new();

/// Looks the functions up. This takes the loader's lock, whose owner may wait for the GIL. So the calling thread has
/// nothing attached, or no other thread runs yet.
pub(crate) fn prepare(py: &Api) {
    FOUND.get_or_keep(|| look_up(py.version));
}

/// Returns `None` if this CPython does not have the functions, or can run without a GIL: to write the place stops all
/// threads there. Returns `None` before [`prepare`], too.
pub(crate) fn known() -> Option<&'static Evaluation> {
    FOUND.get()?.as_ref()
}

fn look_up(version: u16) -> Option<Evaluation> {
    let find = |name| Some(address_of(name)).filter(|found| !found.is_null());
    let is_free_threaded = find(c"_Py_MergeZeroLocalRefcount").is_some();
    // Up to 3.10 a frame is an object.
    let code_of = match version {
        ..=0x030a => Some(find(c"PyFrame_GetCode")?),
        0x030b => None,
        _ => Some(find(c"PyUnstable_InterpreterFrame_GetCode")?),
    };
    // SAFETY: the functions have these types in the versions in which they are looked for.
    unsafe {
        Some(Evaluation {
            default: find(c"_PyEval_EvalFrameDefault")? as usize,
            set: core::mem::transmute::<*mut c_void, Set>(find(
                c"_PyInterpreterState_SetEvalFrameFunc",
            )?),
            get: core::mem::transmute::<*mut c_void, Get>(find(
                c"_PyInterpreterState_GetEvalFrameFunc",
            )?),
            code_of: code_of.map(|found| core::mem::transmute::<*mut c_void, CodeOf>(found)),
        })
    }
    .filter(|_| !is_free_threaded)
}

impl Evaluation {
    /// Has `function` evaluate the frames of the main interpreter. Returns `false` if somebody else's does already.
    ///
    /// # Safety
    /// The calling thread is attached, and there is one GIL for all who come here. `function` has the type that CPython asks
    /// for.
    pub(crate) unsafe fn replace(&self, py: &Api, function: usize) -> bool {
        // SAFETY: attached, by this function's contract, so the main interpreter is there.
        unsafe {
            let main = py.PyInterpreterState_Main();
            let is_default = (self.get)(main) == self.default;
            if is_default {
                (self.set)(main, function);
            }
            is_default
        }
    }

    /// Has CPython's own function evaluate the frames again, unless somebody has put another one in the place of
    /// `function`.
    ///
    /// # Safety
    /// As for `replace`.
    pub(crate) unsafe fn restore(&self, py: &Api, function: usize) {
        // SAFETY: attached, by this function's contract, so the main interpreter is there.
        unsafe {
            let main = py.PyInterpreterState_Main();
            if (self.get)(main) == function {
                (self.set)(main, self.default);
            }
        }
    }

    /// Returns the code of a frame that is about to be evaluated.
    ///
    /// # Safety
    /// The calling thread is attached, and `frame` is what CPython gave to the function that evaluates frames.
    pub(crate) unsafe fn code_of(&self, py: &'static Api, frame: *mut c_void) -> Option<Owned> {
        // SAFETY: the frame is CPython's, by this function's contract. In 3.11 `f_code` is the fifth word of
        // `_PyInterpreterFrame` (3.11.7, `Include/internal/pycore_frame.h`, line 54).
        unsafe {
            match self.code_of {
                Some(code_of) => Owned::new(py, code_of(frame)),
                None => Owned::of_borrowed(py, *frame.cast::<*mut PyObject>().add(4)),
            }
        }
    }
}
