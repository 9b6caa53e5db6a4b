//! The ways to the record of an interpreter: from an attached thread state, from nothing (the main
//! interpreter), by the interpreter's address. And how a record is tied to its interpreter's life.

use std::ffi::{c_int, c_void, CStr};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::attach::{Hold, Receipt};
use crate::gate::{Claim, Lobby};
use crate::memory::OwnName;
use crate::python::{
    sight, Api, Exception, Glance, KeepException, Owned, PyInterpreterState, PyObject,
    PyThreadState,
};
pub(crate) use crate::record::{Record, Registry, RECORD_ALIGN};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::tally::ROLL;
use crate::thread::Thread;
use crate::{attach, daemon, finalize, fork, python, seatbelt};

/// The main interpreter's.
static MAIN: Record = Record::new(true);

/// Where finalization waits, for whichever interpreter.
pub(crate) static LOBBY: Lobby = Lobby::new();

static REGISTRY: Mutex<Registry> = Mutex::new(Registry::new(&MAIN));

pub(crate) fn registry() -> MutexGuard<'static, Registry> {
    lock(&REGISTRY)
}

pub(crate) fn main() -> &'static Record {
    &MAIN
}

/// Why no guard could be had.
pub(crate) enum Refusal {
    /// Gone, finalizing, or not there yet.
    Unavailable,
    OutOfMemory,
    /// CPython raised this, in the attached thread, when the exit callback was to be installed.
    Raised(Exception),
}

impl Refusal {
    /// For the exception that is set, if there is one, which is not any more.
    ///
    /// # Safety
    /// The calling thread is attached.
    unsafe fn raised(py: &'static Api) -> Refusal {
        // SAFETY: attached, says the caller.
        unsafe {
            // Without memory CPython does not always say so.
            let nothing_said = py.PyErr_Occurred().is_null()
                || py.PyErr_ExceptionMatches(py.PyExc_SystemError()) != 0;
            let exception = Exception::take(py);
            if nothing_said || exception.has_text(b"can't allocate lock") {
                Refusal::OutOfMemory
            } else {
                Refusal::Raised(exception)
            }
        }
    }
}

impl Record {
    /// How many guards are out. An exact answer needs a heavy fence before (`fence.rs`).
    pub(crate) fn guards(&self) -> usize {
        self.gate.guards() + ROLL.sum(self.owner())
    }

    /// How many calls of `PyGILState_Ensure` hold it; likewise.
    pub(crate) fn legacy_guards(&self) -> usize {
        self.legacy.guards() + ROLL.sum(self.owner().of_gilstate())
    }

    /// The interpreter, or NULL once it is gone.
    #[inline]
    pub(crate) fn interpreter(&self) -> *mut PyInterpreterState {
        self.address().cast()
    }

    /// For messages.
    pub(crate) fn name(&self) -> impl fmt::Display + '_ {
        struct Name<'a>(&'a Record);
        impl fmt::Display for Name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.0.is_main() {
                    f.write_str("the main interpreter")
                } else {
                    write!(f, "subinterpreter {}", self.0.id())
                }
            }
        }
        Name(self)
    }

    /// One view less. `false`: there was none.
    pub(crate) fn drop_view(&'static self) -> bool {
        registry().drop_view(self)
    }

    /// Takes a guard for somebody who has a view, or nothing but the name "main".
    #[inline]
    pub(crate) fn promote(&'static self, py: &'static Api) -> Result<(), Refusal> {
        if self.is_main() && !self.is_installed() {
            adopt_main(py)?;
        }
        self.take_guard(py)
    }

    /// Takes a guard. When views are not honoured any more, only threads that hold the
    /// interpreter already get one.
    #[inline]
    pub(crate) fn take_guard(&'static self, py: &'static Api) -> Result<(), Refusal> {
        if self.gate.enter(Claim::View, &LOBBY) {
            return Ok(());
        }
        self.take_as_holder(py)
    }

    #[cold]
    fn take_as_holder(&'static self, py: &'static Api) -> Result<(), Refusal> {
        let taken = daemon::is_holder(py, self) && self.gate.enter(Claim::Holder, &LOBBY);
        taken.then_some(()).ok_or(Refusal::Unavailable)
    }
}

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
    // SAFETY: as above.
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
    fork::watch();
    seatbelt::at_first_use();
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
        if watch_death(py, interpreter, record) && finalize::install(py, record, &register) {
            if !is_main && !MAIN.is_installed() {
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
fn visit(py: &'static Api, record: &'static Record) -> bool {
    if record.take_guard(py).is_err() {
        return false;
    }
    let hold = Hold::of(record);
    // SAFETY: the interpreter is alive, and held as soon as the visit has had its effect.
    // `attached` is what `ensure` attached.
    unsafe {
        let ensured = Thread::this()
            .and_then(|thread| attach::ensure(py, thread, record, Some(hold), Receipt::None));
        if ensured.is_none() {
            let _ = hold.give_back();
            return false;
        }
        let installed = of(py, attach::attached(py)).is_ok();
        attach::release(py, "libpep788", 0);
        installed
    }
}

fn create(
    interpreter: *mut PyInterpreterState,
    id: i64,
    is_main: bool,
) -> Result<&'static Record, Refusal> {
    let mut registry = registry();
    // Another thread of this interpreter may have been faster. Or the interpreter that had this
    // address before ended unseen.
    match registry.find(interpreter.cast()) {
        Some(record) if record.id() == id => return Ok(record),
        Some(record) => registry.bury(record),
        None => {}
    }
    if is_main {
        reopen_main(interpreter, &mut registry);
        return Ok(&MAIN);
    }
    let record = registry.claim(interpreter.cast(), id).ok_or(Refusal::OutOfMemory)?;
    if MAIN.gate.is_closed() && !MAIN.interpreter().is_null() {
        // The main wait is over, and covers all interpreters.
        record.gate.condemn();
    }
    Ok(record)
}

/// A new run of the runtime, or the first.
fn reopen_main(interpreter: *mut PyInterpreterState, registry: &mut Registry) {
    Glance::forget_run();
    if !MAIN.interpreter().is_null() {
        sight::forget_run();
    }
    forget_requests();
    registry.reopen_main(interpreter.cast());
}

/// A record to view an interpreter by that is too far gone to be known: it is refused for ever.
/// `None`: out of memory.
pub(crate) fn view_of_the_dying(
    py: &'static Api,
    state: *mut PyThreadState,
) -> Option<&'static Record> {
    if is_of_main(py, state) {
        // Good again if there is another run.
        MAIN.add_view();
        return Some(&MAIN);
    }
    registry().claim_for_the_dying()
}

/// Milliseconds of a clock that never goes back; not 0.
pub(crate) fn clock() -> u64 {
    clock_of(libc::CLOCK_MONOTONIC)
}

/// The same, in steps of a few milliseconds, for a few nanoseconds.
pub(crate) fn coarse_clock() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    clock_of(CLOCK)
}

fn clock_of(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000 + 1
}

const CAPSULE: &CStr = c"pep788.record";

/// Hangs the record in the interpreter's dict, which is emptied while the interpreter is taken
/// apart: before its memory, and its address, is free.
///
/// # Safety
/// The calling thread is attached to `interpreter`.
unsafe fn watch_death(
    py: &'static Api,
    interpreter: *mut PyInterpreterState,
    record: &'static Record,
) -> bool {
    unsafe extern "C" fn died(capsule: *mut PyObject) {
        let Some(py) = python::get() else { return };
        // SAFETY: CPython calls this attached, with a capsule made below.
        unsafe {
            let ticket = py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr());
            // Locked before the look at the ticket: only so the record stays in that life.
            let mut registry = registry();
            if let Some(record) = Record::of_ticket(ticket) {
                registry.bury(record);
            }
        }
    }
    let key = OwnName::new("pep788.record", &MAIN);
    // SAFETY: attached; the dict is borrowed from the living interpreter.
    unsafe {
        let dict = py.PyInterpreterState_GetDict(interpreter);
        if dict.is_null() {
            return false;
        }
        let key = Owned::new(py, py.PyUnicode_FromString(key.as_c_str().as_ptr()));
        let capsule = Owned::new(py, py.PyCapsule_New(record.ticket(), CAPSULE.as_ptr(), None));
        let (Some(key), Some(capsule)) = (key, capsule) else { return false };
        // In one step: another thread may be here as well. Only the one that is kept reports.
        let kept = py.PyDict_SetDefault(dict, key.as_ptr(), capsule.as_ptr());
        if kept == capsule.as_ptr() {
            return py.PyCapsule_SetDestructor(kept, Some(died)) == 0;
        }
        // One of an earlier life of the record is of this interpreter all the same.
        !kept.is_null() && py.PyCapsule_SetPointer(kept, record.ticket()) == 0
    }
}

/// When the main thread was last asked to install the exit callback, by [`clock`]; 0 when it has
/// done so.
static REQUESTED: AtomicU64 = AtomicU64::new(0);

/// A request may be lost with the run of the runtime that it was made in, so it is made again. Not
/// often: the queue of pending calls is short.
const REQUEST_AGAIN_MS: u64 = 100;

/// Has the main thread install the main interpreter's exit callback. CPython runs pending calls
/// before the exit callbacks, so a request that it accepts is in time.
pub(crate) fn request_install(py: &'static Api) -> bool {
    unsafe extern "C" fn install(_: *mut c_void) -> c_int {
        forget_requests();
        if let Some(py) = python::get() {
            install_main_attached(py, attach::attached(py));
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

/// Done; or, in a forked child, never asked: the parent's main thread is not here.
pub(crate) fn forget_requests() {
    REQUESTED.store(0, Ordering::Relaxed);
}

/// Installs the main interpreter's exit callback from a thread that is attached to it; or, as a
/// pending call up to 3.11 may be, to another one.
fn install_main_attached(py: &'static Api, state: *mut PyThreadState) {
    if state.is_null() || MAIN.is_installed() {
        return;
    }
    if is_of_main(py, state) {
        // SAFETY: `state` is attached. A refusal means that this is finalization: nothing to
        // install then.
        let _ = unsafe { of(py, state) };
    } else if open_main(py).is_ok() {
        visit(py, &MAIN);
    }
}

/// Whether an attached thread state is of the main interpreter.
fn is_of_main(py: &'static Api, state: *mut PyThreadState) -> bool {
    // SAFETY: attached, so alive.
    unsafe { py.PyThreadState_GetInterpreter(state) == py.PyInterpreterState_Main() }
}

/// For a caller that names the main interpreter: has the exit callback installed as early as
/// there is a way to.
pub(crate) fn prepare_main(py: &'static Api) {
    if !MAIN.is_installed() {
        // A refusal comes again with the guard that is asked for.
        let _ = adopt_main(py);
    }
}

/// Makes the main interpreter guardable from a thread that may have nothing attached.
#[cold]
fn adopt_main(py: &'static Api) -> Result<(), Refusal> {
    open_main(py)?;
    let state = attach::attached(py);
    // A thread that is attached to another interpreter goes there for it only if it has the one GIL
    // there is (up to 3.11): the main one's may be held by a thread that waits for this one.
    let goes_there = !state.is_null() && (is_of_main(py, state) || py.has_one_gil());
    if goes_there || !request_install_holding(py) {
        install_main_attached(py, state);
        if !MAIN.is_installed() {
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
    let life = MAIN.life();
    if !MAIN.gate.enter(Claim::View, &LOBBY) {
        // An exit waits, or has ended.
        return MAIN.is_installed();
    }
    // SAFETY: needs no thread state.
    let accepted = unsafe { py.Py_IsInitialized() } != 0 && request_install(py);
    if MAIN.life() == life {
        let _ = MAIN.gate.leave(&LOBBY);
    }
    accepted
}

/// Opens the main interpreter's gate, if this is a new run of the runtime.
fn open_main(py: &'static Api) -> Result<(), Refusal> {
    fork::watch();
    let mut registry = registry();
    // SAFETY: neither needs a thread state.
    let (initialized, main) = unsafe { (py.Py_IsInitialized() != 0, py.PyInterpreterState_Main()) };
    // A run that nobody used from an attached thread leaves nothing that would tell of its end.
    if !MAIN.interpreter().is_null() && MAIN.interpreter() != main {
        registry.bury(&MAIN);
    }
    if !initialized || main.is_null() {
        // Not there yet, or finalizing, or gone.
        return Err(Refusal::Unavailable);
    }
    if MAIN.interpreter().is_null() {
        reopen_main(main, &mut registry);
    }
    if MAIN.gate.is_closed() {
        return Err(Refusal::Unavailable);
    }
    Ok(())
}

/// The record of the interpreter at `address`, if the library was used in it, or it is the main one.
pub(crate) fn known_at(
    py: &'static Api,
    address: *mut PyInterpreterState,
) -> Option<&'static Record> {
    // SAFETY: needs no thread state.
    if address == unsafe { py.PyInterpreterState_Main() } && !address.is_null() {
        return Some(&MAIN);
    }
    registry().find(address.cast())
}

/// Whether an interpreter at an address, if there is one, is alive for as long as the call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    /// The caller says so.
    Promised,
    Unknown,
}

/// The record of the interpreter at `address`, if such an interpreter is alive.
///
/// `attached` is the calling thread's attached thread state, or NULL.
pub(crate) fn by_address(
    py: &'static Api,
    address: *mut PyInterpreterState,
    attached: *mut PyThreadState,
    stays: Stays,
) -> Option<&'static Record> {
    let known = known_at(py, address);
    if attached.is_null() || known.is_some_and(Record::is_main) {
        return known;
    }
    // SAFETY: `attached` is attached.
    unsafe {
        if py.PyThreadState_GetInterpreter(attached) == address {
            return of(py, attached).ok();
        }
    }
    if known.is_some() {
        return known;
    }
    // Never used from inside. Another thread may be about to end it. Where it may have a GIL of its own, even its memory may
    // go while it is looked at.
    if stays == Stays::Unknown && !py.has_one_gil() {
        return None;
    }
    // SAFETY: attached.
    let id = unsafe { python::live_interpreter(py, address) }?;
    // Attaching to it may give up the GIL, and CPython ends the process where an end finds a thread state too many.
    // SAFETY: attached; alive, as the GIL is not given up in between.
    if stays == Stays::Unknown && !unsafe { python::is_made_here(py, address) } {
        return None;
    }
    let record = create(address, id, false).ok()?;
    let life = record.life();
    if !visit(py, record) {
        let mut registry = registry();
        // Unless its death was seen meanwhile.
        if record.life() == life {
            registry.bury(record);
        }
        return None;
    }
    Some(record)
}
