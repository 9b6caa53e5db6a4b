//! Keeping the thread state of a native thread between its calls.

use core::ffi::c_int;

use crate::attach::keep;
use crate::start;
use crate::thread::thread::Thread;

/// From this version on CPython makes the thread states for the accepted API itself.
const MAKES_THEM_ITSELF: u16 = 0x030f;

/// Says whether the calling thread keeps the thread state that an Ensure makes for it. A thread that calls back often is served
/// faster then: an Ensure need not make a thread state each time, nor its Release delete it. What Python code has put into a
/// threading.local or a context variable is still there at the thread's next call.
///
/// With 1, the thread state that the next Ensure makes in the main interpreter stays with the thread, detached. It keeps nothing
/// from finalizing: an exit does not wait for it, and CPython deletes it with the interpreter. Otherwise the library deletes it
/// when the thread ends. For that the thread attaches once more. So who joins the thread must not hold the GIL meanwhile.
///
/// With 0, the thread state goes with the Release of the Ensure of the main interpreter that the thread is in, or at once if it is
/// in no Ensure. If PyGILState_Ensure uses it, it goes when the thread ends.
///
/// The thread states of subinterpreters are not kept: one of them would keep Py_EndInterpreter from succeeding.
///
/// Caller: any thread, attached or not, also before Py_Initialize. It is for the calling thread alone.
///
/// Returns 0. Fails with -1 and no exception: out of memory, or from CPython 3.15 on, where the interpreter itself makes and
/// deletes these thread states. Then everything is as without the call.
///
/// Contract: this library's own.
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn Pep788_KeepThreadState(keep: c_int) -> c_int {
    let py = start::api("Pep788_KeepThreadState");
    if py.version >= MAKES_THEM_ITSELF {
        return -1;
    }
    match Thread::this() {
        Some(thread) => {
            keep::set(py, thread, keep != 0);
            0
        }
        None => -1,
    }
}
