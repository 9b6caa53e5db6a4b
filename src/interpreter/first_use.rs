//! Makes the record of an interpreter, and installs its exit callback, at the first use of the library.
//!
//! A thread that is not attached to the main interpreter may name it. Then a pending call installs the callback of
//! the main interpreter.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use super::records::{create, forget_requests, is_of_main, open_main, watch_death, REQUESTED};
use crate::attach::ensure::{ensure, Receipt};
use crate::attach::release::release;
use crate::exit::callback;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::{main, registry, LOBBY};
use crate::os::clock;
use crate::python::{self, Api, KeepException, Owned, PyInterpreterState, PyObject, PyThreadState};
use crate::thread::attached::attached;
use crate::thread::refusal::Refusal;
use crate::thread::thread::Thread;
use crate::trace::note::hold_of;

/// Returns the record of the interpreter of `state`, ready for guards. If this is the first use, makes the record and
/// installs its exit callback.
///
/// # Safety
/// `state` is attached to the calling thread.
#[inline]
pub(crate) unsafe fn of(
    py: &'static Api,
    state: *mut PyThreadState,
) -> Result<&'static Record, Refusal> {
    // SAFETY: `state` is attached, so it is alive.
    let interpreter = unsafe { py.PyThreadState_GetInterpreter(state) };
    let thread = Thread::this();
    if let Some(record) = thread.and_then(|thread| thread.last.get()) {
        // A record loses its interpreter before another interpreter can have the address.
        if record.interpreter() == interpreter && record.is_installed() {
            return Ok(record);
        }
    }
    // SAFETY: `interpreter` is alive, because a thread state of it is attached.
    let record = unsafe { find_or_install(py, interpreter) }?;
    if let Some(thread) = thread {
        thread.last.set(Some(record));
    }
    Ok(record)
}

/// # Safety
/// The calling thread is attached to `interpreter`.
#[cold]
unsafe fn find_or_install(
    py: &'static Api,
    interpreter: *mut PyInterpreterState,
) -> Result<&'static Record, Refusal> {
    // SAFETY: this thread is attached to the interpreter, so it is alive.
    let id = unsafe { py.PyInterpreterState_GetID(interpreter) };
    // SAFETY: needs no thread state.
    let is_main = unsafe { py.PyInterpreterState_Main() } == interpreter;
    let known = {
        // The number tells two interpreters at one address apart, if the end of the first one was not seen.
        registry().find(interpreter.cast()).filter(|record| record.id() == id)
    };
    match known {
        Some(record) if record.gate.is_closed() => return Ok(record),
        Some(record) if record.is_installed() => return Ok(record),
        _ => {}
    }
    // The main interpreter finalizes. An exit callback that is registered now would not be called any more.
    // SAFETY: needs no thread state.
    if is_main && unsafe { py.Py_IsInitialized() } == 0 {
        return Err(Refusal::Unavailable);
    }
    // SAFETY: attached, by this function's contract.
    unsafe {
        let _exception = KeepException::new(py);
        // This comes before anything is made, so that nothing is left behind.
        if python::is_taken_apart(py) {
            return Err(Refusal::Unavailable);
        }
        // `PyImport_ImportModule` is not used: it looks at the builtins of the code that runs, and that code may be
        // in a sandbox.
        let atexit = Owned::new(py, py.PyImport_ImportModuleLevel(c"atexit".as_ptr()));
        let register = atexit.and_then(|atexit| {
            Owned::new(py, py.PyObject_GetAttrString(atexit.as_ptr(), c"register".as_ptr()))
        });
        let Some(register) = register else {
            // An ImportError in a subinterpreter means that it is taken apart. The main interpreter is initialized,
            // so it is not taken apart.
            let is_taken_apart = !is_main && py.PyErr_ExceptionMatches(py.PyExc_ImportError()) != 0;
            let raised = Refusal::raised(py);
            return Err(if is_taken_apart { Refusal::Unavailable } else { raised });
        };
        let record = match known {
            Some(record) => record,
            None => create(interpreter, id, is_main)?,
        };
        if watch_death(py, interpreter, record) && callback::install(py, record, &register, dropped)
        {
            if !is_main && !main().is_installed() {
                // The end of the main interpreter ends all interpreters. So the main interpreter has to wait for the
                // guards of this one too, even if nobody uses the library in the main interpreter.
                prepare_main(py);
            }
            return Ok(record);
        }
        // The record can be used in the next try.
        Err(Refusal::raised(py))
    }
}

/// Installs the exit callback of `record`, from a thread that is attached to another interpreter or to none.
pub(super) fn visit(py: &'static Api, record: &'static Record) -> bool {
    if record.take_guard(py).is_err() {
        return false;
    }
    let hold = hold_of(record);
    // SAFETY: the interpreter is alive, and the guard holds it as soon as the visit has installed the exit callback.
    // `attached` returns what `ensure` attached.
    unsafe {
        let ensured =
            Thread::this().and_then(|thread| ensure(py, thread, record, Some(hold), Receipt::None));
        if ensured.is_none() {
            let _ = hold.give_back();
            return false;
        }
        let installed = of(py, attached(py)).is_ok();
        release(py, "libpep788", 0);
        installed
    }
}

/// Runs when `atexit` drops the exit callback.
unsafe extern "C" fn dropped(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this function in an attached thread, with the capsule whose destructor it is.
    if unsafe { callback::given_up(py, capsule) } {
        // The callback is not installed here, because `atexit` is in the middle of clearing its list.
        request_install(py);
    }
}

/// After this time a request is made again, because it may be lost with the run of the runtime that it was made in.
/// It is not made often, because the queue of pending calls is short.
const REQUEST_AGAIN_MS: u64 = 100;

/// Asks the main thread to install the main interpreter's exit callback. CPython runs pending calls before the exit
/// callbacks, so a request that CPython accepts is in time.
pub(crate) fn request_install(py: &'static Api) -> bool {
    unsafe extern "C" fn install(_: *mut c_void) -> c_int {
        forget_requests();
        if let Some(py) = python::get() {
            install_main_attached(py, attached(py));
        }
        0
    }
    let last = REQUESTED.load(Ordering::Relaxed);
    if last != 0 && clock() < last + REQUEST_AGAIN_MS {
        return true;
    }
    let accepted = py.call_in_main(install);
    // Relaxed: two requests would do no harm.
    REQUESTED.store(if accepted { clock() } else { 0 }, Ordering::Relaxed);
    accepted
}

/// Installs the main interpreter's exit callback, from a thread that is attached to it. Up to 3.11 the thread of a
/// pending call may be attached to another interpreter.
fn install_main_attached(py: &'static Api, state: *mut PyThreadState) {
    if state.is_null() || main().is_installed() {
        return;
    }
    if is_of_main(py, state) {
        // SAFETY: `state` is attached. A refusal means that the interpreter finalizes: there is nothing to install
        // then.
        let _ = unsafe { of(py, state) };
    } else if open_main(py).is_ok() {
        visit(py, main());
    }
}

/// Installs the main interpreter's exit callback, or asks for that, as early as there is a way to. For a caller that
/// names the main interpreter.
pub(crate) fn prepare_main(py: &'static Api) {
    if !main().is_installed() {
        // A refusal comes again with the guard that the caller asks for.
        let _ = adopt_main(py);
    }
}

/// Makes the main interpreter ready for guards, from a thread that may have nothing attached.
#[cold]
fn adopt_main(py: &'static Api) -> Result<(), Refusal> {
    open_main(py)?;
    let state = attached(py);
    // A thread that is attached to another interpreter attaches to the main interpreter for this only if there is one
    // GIL for all (up to 3.11). Otherwise a thread that waits for this one may hold the main interpreter's GIL.
    let goes_there = !state.is_null() && (is_of_main(py, state) || py.has_one_gil());
    if goes_there || !request_install_holding(py) {
        install_main_attached(py, state);
        if !main().is_installed() {
            return Err(Refusal::Unavailable);
        }
    }
    Ok(())
}

/// Does [`request_install`] for a thread that may have nothing attached, and that may have been held up since it
/// looked. If there is no interpreter any more, asking it for a call crashes. An exit waits for the gate if the exit
/// callback is there, or was asked for in time. If not, only the time between the second look and the call is left
/// for a crash. Returns `false` if the request was not accepted, or came too late.
fn request_install_holding(py: &'static Api) -> bool {
    let life = main().life();
    if !main().gate.enter(Claim::View, &LOBBY) {
        // An exit waits, or is over.
        return main().is_installed();
    }
    // SAFETY: needs no thread state.
    let accepted = unsafe { py.Py_IsInitialized() } != 0 && request_install(py);
    if main().life() == life {
        let _ = main().gate.leave(&LOBBY);
    }
    accepted
}

impl Record {
    /// Takes a guard for a caller that has a view, or nothing but the name "main".
    #[inline]
    pub(crate) fn promote(&'static self, py: &'static Api) -> Result<(), Refusal> {
        if self.is_main() && !self.is_installed() {
            adopt_main(py)?;
        }
        self.take_guard(py)
    }
}
