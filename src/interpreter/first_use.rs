//! The first use of the library in an interpreter: its record is made, and its exit callback installed.
//!
//! The main interpreter may be named by a thread that is not attached to it. Then a pending call installs its callback.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use super::records::{create, forget_requests, is_of_main, open_main, watch_death, REQUESTED};
use crate::attach::ensure::{ensure, Receipt};
use crate::attach::release::release;
use crate::exit::callback;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::{main, registry, LOBBY};
use crate::python::{self, Api, KeepException, Owned, PyInterpreterState, PyObject, PyThreadState};
use crate::support::clock::clock;
use crate::thread::attached::attached;
use crate::thread::refusal::Refusal;
use crate::thread::thread::Thread;
use crate::trace::note::hold_of;

/// The record of the interpreter of `state`, ready to be guarded: made, and its exit callback
/// installed, if this is the first use.
///
/// # Safety
/// `state` is attached to the calling thread.
#[inline]
pub(crate) unsafe fn of(
    py: &'static Api,
    state: *mut PyThreadState,
) -> Result<&'static Record, Refusal> {
    // SAFETY: attached, so alive.
    let interpreter = unsafe { py.PyThreadState_GetInterpreter(state) };
    let thread = Thread::this();
    if let Some(record) = thread.and_then(|thread| thread.last.get()) {
        // A record loses its interpreter before the address can be another one's.
        if record.interpreter() == interpreter && record.is_installed() {
            return Ok(record);
        }
    }
    // SAFETY: `interpreter` is alive, as a thread state of it is attached.
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
    // SAFETY: attached, so alive.
    let id = unsafe { py.PyInterpreterState_GetID(interpreter) };
    // SAFETY: needs no thread state.
    let is_main = unsafe { py.PyInterpreterState_Main() } == interpreter;
    let known = {
        // The number tells two interpreters at one address apart, if the first one's end went
        // unseen.
        registry().find(interpreter.cast()).filter(|record| record.id() == id)
    };
    match known {
        Some(record) if record.gate.is_closed() => return Ok(record),
        Some(record) if record.is_installed() => return Ok(record),
        _ => {}
    }
    // Finalizing. An exit callback registered now would not be called any more.
    // SAFETY: needs no thread state.
    if is_main && unsafe { py.Py_IsInitialized() } == 0 {
        return Err(Refusal::Unavailable);
    }
    // SAFETY: attached.
    unsafe {
        let _exception = KeepException::new(py);
        // Before anything is made, so that nothing is left behind.
        if python::is_taken_apart(py) {
            return Err(Refusal::Unavailable);
        }
        // Not by `PyImport_ImportModule`, which looks at the builtins of the code that runs: that may be in a sandbox.
        let atexit = Owned::new(py, py.PyImport_ImportModuleLevel(c"atexit".as_ptr()));
        let register = atexit.and_then(|atexit| {
            Owned::new(py, py.PyObject_GetAttrString(atexit.as_ptr(), c"register".as_ptr()))
        });
        let Some(register) = register else {
            // The main interpreter is initialized, so it is not that which it lacks.
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
                // The end of the main interpreter ends them all, so it has to wait for the
                // guards of this one too, even if nobody uses the library in it.
                prepare_main(py);
            }
            return Ok(record);
        }
        // The record is good for the next try.
        Err(Refusal::raised(py))
    }
}

/// Has the exit callback of `record` installed, from a thread that is attached to another
/// interpreter or to none.
pub(super) fn visit(py: &'static Api, record: &'static Record) -> bool {
    if record.take_guard(py).is_err() {
        return false;
    }
    let hold = hold_of(record);
    // SAFETY: the interpreter is alive, and held as soon as the visit has had its effect.
    // `attached` is what `ensure` attached.
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

/// `atexit` gave the exit callback up.
unsafe extern "C" fn dropped(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this attached, with the capsule that it is the destructor of.
    if unsafe { callback::given_up(py, capsule) } {
        // Not here: `atexit` is in the middle of clearing its list.
        request_install(py);
    }
}

/// A request may be lost with the run of the runtime that it was made in, so it is made again. Not
/// often: the queue of pending calls is short.
const REQUEST_AGAIN_MS: u64 = 100;

/// Has the main thread install the main interpreter's exit callback. CPython runs pending calls
/// before the exit callbacks, so a request that it accepts is in time.
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

/// Installs the main interpreter's exit callback from a thread that is attached to it; or, as a
/// pending call up to 3.11 may be, to another one.
fn install_main_attached(py: &'static Api, state: *mut PyThreadState) {
    if state.is_null() || main().is_installed() {
        return;
    }
    if is_of_main(py, state) {
        // SAFETY: `state` is attached. A refusal means that this is finalization: nothing to
        // install then.
        let _ = unsafe { of(py, state) };
    } else if open_main(py).is_ok() {
        visit(py, main());
    }
}

/// For a caller that names the main interpreter: has the exit callback installed as early as
/// there is a way to.
pub(crate) fn prepare_main(py: &'static Api) {
    if !main().is_installed() {
        // A refusal comes again with the guard that is asked for.
        let _ = adopt_main(py);
    }
}

/// Makes the main interpreter guardable from a thread that may have nothing attached.
#[cold]
fn adopt_main(py: &'static Api) -> Result<(), Refusal> {
    open_main(py)?;
    let state = attached(py);
    // A thread that is attached to another interpreter goes there for it only if it has the one GIL
    // there is (up to 3.11): the main one's may be held by a thread that waits for this one.
    let goes_there = !state.is_null() && (is_of_main(py, state) || py.has_one_gil());
    if goes_there || !request_install_holding(py) {
        install_main_attached(py, state);
        if !main().is_installed() {
            return Err(Refusal::Unavailable);
        }
    }
    Ok(())
}

/// [`request_install`] for a thread that may have nothing attached, and may have been held up since it looked: where
/// there is no interpreter any more, asking it for a call crashes. An exit waits for the gate if the exit callback is
/// there, or was asked for in time. If not, the time between the second look and the call is all there is.
/// `false`: not accepted, or too late.
fn request_install_holding(py: &'static Api) -> bool {
    let life = main().life();
    if !main().gate.enter(Claim::View, &LOBBY) {
        // An exit waits, or has ended.
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
    /// Takes a guard for somebody who has a view, or nothing but the name "main".
    #[inline]
    pub(crate) fn promote(&'static self, py: &'static Api) -> Result<(), Refusal> {
        if self.is_main() && !self.is_installed() {
            adopt_main(py)?;
        }
        self.take_guard(py)
    }
}
