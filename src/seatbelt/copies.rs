//! Talks to another copy of the library that is in the process and was first to redirect CPython's functions.
//!
//! That copy serves the calls. So it is asked to do what changes how calls are served.

use core::ffi::c_int;
use core::sync::atomic::{fence, AtomicBool, Ordering};

use crate::patch::patch::Copy;
use crate::python::PyInterpreterState;
use crate::support::kept::Kept;

/// Whether a thread that comes too late is ended in `PyGILState_Ensure`. If not, the thread is told
/// (`PyGILState_SetHangDuringFini`).
static HANGS: AtomicBool = AtomicBool::new(true);

pub(crate) fn set_hangs(hangs: bool) {
    // Relaxed: this value publishes nothing else.
    HANGS.store(hangs, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `hand_on_to`. Either the copy is found here, or what was stored here is found
    // there.
    fence(Ordering::SeqCst);
    if let Some(serving) = SERVING.get() {
        // SAFETY: the function is the other copy's, which stays loaded.
        unsafe { (serving.set_hangs)(c_int::from(hangs)) };
    }
}

pub(super) fn hangs() -> bool {
    HANGS.load(Ordering::Relaxed)
}

/// What another copy of the library is asked to do when that copy serves the calls.
struct Serving {
    set_hangs: SetHangs,
    choose: ChooseInterpreter,
}

pub(super) type SetHangs = unsafe extern "C" fn(c_int);
pub(super) type ChooseInterpreter = unsafe extern "C" fn(*mut PyInterpreterState) -> c_int;

static SERVING: Kept<Serving> = Kept::new();

/// Asks that copy from now on.
pub(super) fn hand_on_to(copy: &Copy) {
    // SAFETY: these are the signatures of the functions that the other copy's `for_copies` returned.
    let serving = unsafe {
        Serving {
            set_hangs: core::mem::transmute::<usize, SetHangs>(copy.function(0)),
            choose: core::mem::transmute::<usize, ChooseInterpreter>(copy.function(1)),
        }
    };
    SERVING.keep(serving);
    fence(Ordering::SeqCst);
    if !hangs() {
        // This copy was told so before.
        set_hangs(false);
    }
}

/// Does what `choose_interpreter` does, by the copy that serves the calls. Returns `None` if this copy serves them.
pub(super) fn choose_by_copy(interpreter: *mut PyInterpreterState) -> Option<bool> {
    // SAFETY: the function is the other copy's, which stays loaded.
    SERVING.get().map(|serving| unsafe { (serving.choose)(interpreter) } != 0)
}
