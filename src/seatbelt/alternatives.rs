//! What was proposed for `PyGILState` in the discussion of PEP 788, by means of the seatbelt.

use std::cell::Cell;
use std::ffi::{c_int, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{fence, AtomicBool, Ordering};

use super::gilstate::choose_interpreter;
use super::patch::Copy;
use crate::interpreter::{self, Record, Refusal, Stays};
use crate::kept::Kept;
use crate::memory::OwnName;
use crate::python::{self, Api, KeepException, Owned, PyInterpreterState, PyObject, PyThreadState};
use crate::sync::{lock, Mutex, MutexGuard};

/// Whether a thread that comes too late sleeps in `PyGILState_Ensure`, or is told.
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

type SetHangs = unsafe extern "C" fn(c_int);
type ChooseInterpreter = unsafe extern "C" fn(*mut PyInterpreterState) -> c_int;

static SERVING: Kept<Serving> = Kept::new();

/// What this copy has for others: `Serving`, in this order.
pub(super) fn for_copies() -> [usize; 2] {
    unsafe extern "C" fn hangs(hangs: c_int) {
        set_hangs(hangs != 0);
    }
    unsafe extern "C" fn choose(interpreter: *mut PyInterpreterState) -> c_int {
        let py = python::get_or_fatal("PyGILState_SetInterpreter");
        c_int::from(choose_interpreter(py, interpreter))
    }
    [hangs as SetHangs as usize, choose as ChooseInterpreter as usize]
}

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

/// The interpreter that a thread chose, in the life that its record had.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    record: &'static Record,
    life: usize,
}

impl Chosen {
    /// Its record. `None`: it is gone.
    pub(super) fn record(self) -> Option<&'static Record> {
        (self.record.life() == self.life && !self.record.interpreter().is_null())
            .then_some(self.record)
    }
}

pub(super) type Choice = Cell<Option<Chosen>>;

/// `None`: the library does not know such an interpreter.
pub(super) fn choose(
    py: &'static Api,
    interpreter: *mut PyInterpreterState,
    attached: *mut PyThreadState,
) -> Option<Chosen> {
    let record = interpreter::by_address(py, interpreter, attached, Stays::Promised)?;
    Some(Chosen { record, life: record.life() })
}

pub(crate) type Callback = unsafe extern "C" fn(*mut PyThreadState, *mut c_void) -> c_int;

/// To be called when the exit of an interpreter begins to wait.
pub(crate) struct AtFini {
    state: *mut PyThreadState,
    record: &'static Record,
    life: usize,
    callback: Callback,
    argument: *mut c_void,
}

// SAFETY: the pointers are the callback's business, in whichever thread that finalizes.
unsafe impl Send for AtFini {}

static AT_FINI: Mutex<Vec<AtFini>> = Mutex::new(Vec::new());

fn at_fini() -> MutexGuard<'static, Vec<AtFini>> {
    lock(&AT_FINI)
}

/// For the time of a fork.
pub(crate) fn hold_at_fini() -> MutexGuard<'static, Vec<AtFini>> {
    at_fini()
}

const CAPSULE: &CStr = c"pep788.at_fini";

/// One for each thread state; `None` takes it back.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(crate) unsafe fn set_at_fini(
    py: &'static Api,
    state: *mut PyThreadState,
    callback: Option<(Callback, *mut c_void)>,
) -> Result<(), Refusal> {
    // SAFETY: attached, says the caller.
    let record = unsafe { interpreter::of(py, state) }?;
    if record.gate.is_closed() {
        return Err(Refusal::Unavailable);
    }
    let Some((callback, argument)) = callback else {
        forget(state);
        return Ok(());
    };
    // SAFETY: attached, says the caller.
    unsafe { watch_death(py, state) }?;
    let mut all = at_fini();
    all.try_reserve(1).map_err(|_| Refusal::OutOfMemory)?;
    all.push(AtFini { state, record, life: record.life(), callback, argument });
    Ok(())
}

fn forget(state: *mut PyThreadState) {
    at_fini().retain(|entry| entry.state != state);
}

/// Has the thread state's callback forgotten before its address is another one's, by a capsule in its dict.
///
/// # Safety
/// `state` is attached to the calling thread.
unsafe fn watch_death(py: &'static Api, state: *mut PyThreadState) -> Result<(), Refusal> {
    unsafe extern "C" fn died(capsule: *mut PyObject) {
        if let Some(py) = python::get() {
            // SAFETY: CPython calls this attached, with a capsule made below.
            forget(unsafe { py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr()) }.cast());
        }
    }
    // SAFETY: attached, says the caller; the dict is borrowed.
    unsafe {
        let _exception = KeepException::new(py);
        let key = OwnName::new("pep788.at_fini", &AT_FINI);
        let dict = py.PyThreadState_GetDict();
        // One that was there before goes, and what it watched is forgotten.
        let capsule = Owned::new(py, py.PyCapsule_New(state.cast(), CAPSULE.as_ptr(), Some(died)));
        let done = capsule.filter(|_| !dict.is_null()).is_some_and(|capsule| {
            py.PyDict_SetItemString(dict, key.as_c_str().as_ptr(), capsule.as_ptr()) == 0
        });
        py.PyErr_Clear();
        if done {
            Ok(())
        } else {
            Err(Refusal::OutOfMemory)
        }
    }
}

/// The exit of some interpreters begins to wait, in this thread: calls what was set for their
/// thread states, each once.
///
/// # Safety
/// The calling thread is attached, with no exception set.
pub(crate) unsafe fn run_at_fini(py: &'static Api, covers: impl Fn(&'static Record) -> bool) {
    loop {
        let next = {
            let mut all = at_fini();
            let found = all
                .iter()
                .position(|entry| entry.life == entry.record.life() && covers(entry.record));
            found.map(|index| all.remove(index))
        };
        let Some(entry) = next else { return };
        // SAFETY: called as it was promised; attached, says the caller.
        unsafe {
            if (entry.callback)(entry.state, entry.argument) != 0 && !py.PyErr_Occurred().is_null()
            {
                py.PyErr_WriteUnraisable(null_mut());
            }
            py.PyErr_Clear();
        }
    }
}
