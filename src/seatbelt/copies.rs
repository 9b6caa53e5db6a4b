//! Another copy of the library in the process, which was first: it serves the calls, and is asked for what changes them.

use std::ffi::c_int;
use std::sync::atomic::{fence, AtomicBool, Ordering};

use crate::patch::patch::Copy;
use crate::python::PyInterpreterState;
use crate::support::kept::Kept;

/// Whether a thread that comes too late ends in `PyGILState_Ensure`, or is told (`PyGILState_SetHangDuringFini`).
static HANGS: AtomicBool = AtomicBool::new(true);

pub(crate) fn set_hangs(hangs: bool) {
    // Relaxed: nothing else is told by it.
    HANGS.store(hangs, Ordering::Relaxed);
    // Either the copy is found here, or what was stored is found there.
    fence(Ordering::SeqCst);
    if let Some(serving) = SERVING.get() {
        // SAFETY: the other copy's, which stays loaded.
        unsafe { (serving.set_hangs)(c_int::from(hangs)) };
    }
}

pub(super) fn hangs() -> bool {
    HANGS.load(Ordering::Relaxed)
}

/// What another copy of the library is asked to do, as it serves the calls.
struct Serving {
    set_hangs: SetHangs,
    choose: ChooseInterpreter,
}

pub(super) type SetHangs = unsafe extern "C" fn(c_int);
pub(super) type ChooseInterpreter = unsafe extern "C" fn(*mut PyInterpreterState) -> c_int;

static SERVING: Kept<Serving> = Kept::new();

/// From now on that copy is asked.
pub(super) fn hand_on_to(copy: &Copy) {
    // SAFETY: the signatures of what `for_copies` gave to it.
    let serving = unsafe {
        Serving {
            set_hangs: std::mem::transmute::<usize, SetHangs>(copy.function(0)),
            choose: std::mem::transmute::<usize, ChooseInterpreter>(copy.function(1)),
        }
    };
    SERVING.keep(serving);
    fence(Ordering::SeqCst);
    if !hangs() {
        // It was told before.
        set_hangs(false);
    }
}

/// As `choose_interpreter`, by the copy that serves the calls. `None`: that is this one.
pub(super) fn choose_by_copy(interpreter: *mut PyInterpreterState) -> Option<bool> {
    // SAFETY: the other copy's, which stays loaded.
    SERVING.get().map(|serving| unsafe { (serving.choose)(interpreter) } != 0)
}
