//! `PyGILState_Ensure` and `PyGILState_Release` as the library has them.
//!
//! They do what CPython's do, and call functions that it exports; the one thing it keeps inside, a count of calls in
//! the thread state, is kept per thread here. CPython made the thread state of a call that began before the seatbelt was
//! on, and counted there: such a call is recognized by its Release finding nothing to release here.
//!
//! What they do besides: the outermost Ensure of a thread with nothing attached takes a hold on the
//! interpreter, which its Release gives back. Where it is too late for one, the thread sleeps for ever.
//!
//! A *scope* is pybind11's `gil_scoped_acquire`, which makes a thread state with no call counted in it, attaches
//! that by `PyEval_AcquireThread`, counts for itself, and at its end uses `PyThreadState_DeleteCurrent`.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::alternatives::{self, Choice};
use crate::gate::Claim;
use crate::interpreter::{self, Record, LOBBY};
use crate::python::{self, Api, PyInterpreterState, PyThreadState};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::thread::Thread;
use crate::trace::{self, Text};
use crate::{attach, fork};

const LOCKED: c_int = 0;
const UNLOCKED: c_int = 1;
/// Neither of CPython's two.
pub(crate) const FAILED: c_int = 2;

/// Keeps an interpreter from finalizing, for a while: see [`super::Wait`].
struct Hold {
    record: &'static Record,
    process: usize,
    life: usize,
}

impl Hold {
    fn is_valid(&self) -> bool {
        self.process == fork::generation() && self.life == self.record.life()
    }

    fn give_back(self) {
        if self.is_valid() {
            let _ = self.record.legacy.leave(&LOBBY);
        }
    }
}

/// An Ensure that attached a thread state, or a scope, with the Ensures inside it that found it attached.
struct Call {
    /// How many it is that were not released.
    count: usize,
    /// The thread state that was made for it and goes with it. NULL: it found one.
    made: *mut PyThreadState,
    hold: Option<Hold>,
}

/// What a thread has to do with `PyGILState`.
pub(crate) struct Legacy {
    calls: UnsafeCell<Vec<Call>>,
    /// Ensures that found a thread state attached, outside of all calls.
    found: Cell<usize>,
    /// The record, and its life, whose exit this thread conducts.
    finalizes: Cell<Option<(&'static Record, usize)>>,
    /// Where it is to be attached while it has no thread state.
    chosen: Choice,
    seen: Seen,
}

/// What the report of an exit knows of a thread. Only the thread writes it, and others read it under
/// the lock of [`THREADS`].
pub(crate) struct Seen {
    /// The interpreter that it holds.
    holds: AtomicPtr<Record>,
    /// Its number, once it is among them.
    id: AtomicU64,
    /// Its `pthread_t`.
    thread: AtomicUsize,
}

impl Seen {
    // Relaxed, here and below: for what is told to people.
    fn holds(&self, record: Option<&'static Record>) {
        let record = record.map_or(null_mut(), |record| std::ptr::from_ref(record).cast_mut());
        self.holds.store(record, Ordering::Relaxed);
    }

    fn note_id(&self) {
        self.id.store(trace::thread_id(), Ordering::Relaxed);
        // SAFETY: no preconditions.
        self.thread.store(unsafe { libc::pthread_self() } as usize, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.id.load(Ordering::Relaxed) != 0
    }

    /// Out of memory it will not be named.
    #[cold]
    fn enlist(&'static self) {
        let mut threads = threads();
        if threads.try_reserve(1).is_ok() {
            threads.push(self);
            self.note_id();
        }
    }
}

impl Legacy {
    pub(crate) fn new() -> Legacy {
        Legacy {
            calls: UnsafeCell::new(Vec::new()),
            found: Cell::new(0),
            finalizes: Cell::new(None),
            chosen: Choice::new(None),
            seen: Seen {
                holds: AtomicPtr::new(null_mut()),
                id: AtomicU64::new(0),
                thread: AtomicUsize::new(0),
            },
        }
    }

    /// # Safety
    /// By its own thread, for a few lines without calls into Python.
    #[allow(clippy::mut_from_ref)]
    unsafe fn calls(&self) -> &mut Vec<Call> {
        // SAFETY: says the caller.
        unsafe { &mut *self.calls.get() }
    }

    /// The thread ends, and comes to no Release any more.
    ///
    /// # Safety
    /// By its own thread.
    pub(crate) unsafe fn forget(&self) {
        // SAFETY: as this function says.
        for call in unsafe { self.calls() }.drain(..) {
            if let Some(hold) = call.hold {
                hold.give_back();
            }
        }
        if self.seen.is_known() {
            threads().retain(|other| !std::ptr::eq(*other, &self.seen));
        }
    }

    /// Whether this thread conducts the exit of an interpreter, or of the main one.
    fn finalizes(&self, record: &'static Record) -> bool {
        self.finalizes.get().is_some_and(|(own, life)| {
            own.life() == life && (own.is_main() || std::ptr::eq(own, record))
        })
    }
}

/// The threads that have held an interpreter by `PyGILState_Ensure`.
static THREADS: Mutex<Vec<&'static Seen>> = Mutex::new(Vec::new());

fn threads() -> MutexGuard<'static, Vec<&'static Seen>> {
    lock(&THREADS)
}

/// For the time of a fork.
pub(crate) fn hold_threads() -> MutexGuard<'static, Vec<&'static Seen>> {
    threads()
}

/// In a forked child: the thread that forked is the only one.
pub(crate) fn forget_parent(all: &mut Vec<&'static Seen>) {
    let own = Thread::known().map(|thread| &thread.legacy.seen);
    all.retain(|other| own.is_some_and(|own| std::ptr::eq(*other, own)));
    if let Some(own) = own.filter(|own| own.is_known()) {
        own.note_id();
        own.holds(None);
    }
}

/// The threads that hold one of these interpreters: their names and numbers.
pub(super) fn inside(covers: impl Fn(&'static Record) -> bool) -> Vec<(Text<16>, u64)> {
    let threads = threads();
    let mut found = Vec::new();
    for thread in threads.iter() {
        // SAFETY: NULL or a record, which is one for ever.
        let record = unsafe { thread.holds.load(Ordering::Relaxed).as_ref() };
        if record.is_some_and(&covers) && found.try_reserve(1).is_ok() {
            // It lives: at its end it takes itself from the list, for which it needs the lock.
            let name = trace::thread_name(thread.thread.load(Ordering::Relaxed) as libc::pthread_t);
            found.push((name, thread.id.load(Ordering::Relaxed)));
        }
    }
    found
}

/// The exit of `record` begins, in this thread: it will not come to the Releases of its own calls
/// before the end of it, and is let in to the end.
pub(crate) fn give_up_own_holds(covers: impl Fn(&'static Record) -> bool) {
    let Some(thread) = Thread::known() else { return };
    // SAFETY: this thread's own, and no call into Python.
    for call in unsafe { thread.legacy.calls() } {
        if let Some(hold) = call.hold.take_if(|hold| covers(hold.record)) {
            hold.give_back();
            thread.legacy.seen.holds(None);
        }
    }
}

/// From now on this thread conducts the exit of `record`.
pub(crate) fn note_finalizer(record: &'static Record) {
    if let Some(thread) = Thread::this() {
        thread.legacy.finalizes.set(Some((record, record.life())));
    }
}

/// Where this thread is attached by an Ensure, while it has no thread state. `false`: cannot be.
pub(crate) fn choose_interpreter(py: &'static Api, interpreter: *mut PyInterpreterState) -> bool {
    let Some(thread) = Thread::this() else { return false };
    // SAFETY: needs no thread state.
    if interpreter.is_null() || interpreter == unsafe { py.PyInterpreterState_Main() } {
        thread.legacy.chosen.set(None);
        return true;
    }
    if !super::is_on() {
        return false;
    }
    let attached = attach::attached(py);
    let mut chosen = alternatives::choose(py, interpreter, attached);
    if chosen.is_none() && attached.is_null() {
        // One that the library was never used in is looked for with something attached.
        thread.legacy.chosen.set(None);
        if attach(py, State::usual(py)) {
            chosen = alternatives::choose(py, interpreter, attach::attached(py));
            // SAFETY: of the call just begun.
            unsafe { release(UNLOCKED) };
        }
    }
    if chosen.is_some() {
        thread.legacy.chosen.set(chosen);
    }
    chosen.is_some()
}

/// Where thread states count the calls of `PyGILState_Ensure` they are in, in bytes. It is `gilstate_counter` of
/// `cpython/pystate.h`, which pybind11 writes too: so it does not move within a minor version.
pub(super) fn counter(py: &'static Api) -> Option<usize> {
    match py.version {
        0x0309 | 0x030a | 0x030f => Some(160),
        0x030b | 0x030d | 0x030e => Some(136),
        0x030c => Some(120),
        _ => None,
    }
}

/// # Safety
/// `state` is attached to the calling thread, or its own.
unsafe fn count_in(py: &'static Api, state: *mut PyThreadState) -> Option<*mut c_int> {
    // SAFETY: within the thread state, which is there, says the caller.
    counter(py).map(|offset| unsafe { state.byte_add(offset).cast() })
}

const ENSURE: &str = "PyGILState_Ensure";
const RELEASE: &str = "PyGILState_Release";
const ACQUIRE: &str = "PyEval_AcquireThread";
const DELETE: &str = "PyThreadState_DeleteCurrent";

pub(super) unsafe extern "C" fn ensure() -> c_int {
    let py = python::get_or_fatal(ENSURE);
    // SAFETY: reads thread-local storage only.
    let usual = unsafe { py.PyGILState_GetThisThreadState() };
    if !usual.is_null() && py.is_current(usual) {
        if let Some(thread) = Thread::this() {
            // SAFETY: this thread's own, and no call into Python.
            match unsafe { thread.legacy.calls() }.last_mut() {
                Some(call) => call.count += 1,
                None => thread.legacy.found.set(thread.legacy.found.get() + 1),
            }
        }
        if !interpreter::main().is_installed() {
            request_install(py);
        }
        return LOCKED;
    }
    if attach(py, State::usual(py)) {
        UNLOCKED
    } else if alternatives::hangs() {
        sleep_for_ever();
    } else {
        FAILED
    }
}

pub(super) unsafe extern "C" fn acquire_thread(state: *mut PyThreadState) {
    let py = python::get_or_fatal(ACQUIRE);
    if state.is_null() {
        python::fatal(ACQUIRE, "the thread state is NULL");
    }
    if !begins_scope(py, state).unwrap_or_else(|| sleep_for_ever()) {
        // SAFETY: as the caller of CPython's own function promises.
        return unsafe { py.PyEval_RestoreThread(state) };
    }
    if !attach(py, State::Given(state)) {
        sleep_for_ever();
    }
}

/// Whether `state` is one that a scope made and that was not attached yet. `None`: Python has ended, and with it the thread state.
fn begins_scope(py: &'static Api, state: *mut PyThreadState) -> Option<bool> {
    let main = interpreter::main();
    let held = main.legacy.enter(Claim::Holder, &LOBBY);
    let may_look = held || Thread::known().is_some_and(|thread| thread.legacy.finalizes(main));
    // SAFETY: a thread state that the caller may attach, so its own; and its interpreter does not end now.
    let begins = may_look.then(|| unsafe { count_in(py, state).is_some_and(|count| *count == 0) });
    if held {
        let _ = main.legacy.leave(&LOBBY);
    }
    begins
}

/// The exit callback is wanted, but not here: this call neither runs Python code nor gives up the GIL.
#[cold]
fn request_install(py: &'static Api) {
    // SAFETY: needs no thread state.
    if !interpreter::main().gate.is_closed() && unsafe { py.Py_IsInitialized() } != 0 {
        interpreter::request_install(py);
    }
}

/// What a call attaches.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The thread state that `PyGILState` has for this thread.
    Own(*mut PyThreadState),
    /// One that was made for a scope.
    Given(*mut PyThreadState),
    ToBeMade,
}

impl State {
    fn usual(py: &'static Api) -> State {
        // SAFETY: reads thread-local storage only.
        let own = unsafe { py.PyGILState_GetThisThreadState() };
        if own.is_null() {
            State::ToBeMade
        } else {
            State::Own(own)
        }
    }
}

/// `false`: it is too late.
fn attach(py: &'static Api, state: State) -> bool {
    let Some(thread) = Thread::this() else { no_memory() };
    // SAFETY: this thread's own, until the next call into Python.
    let calls = unsafe { thread.legacy.calls() };
    if calls.try_reserve(1).is_err() {
        no_memory();
    }
    let is_inside = calls.iter().any(|call| call.hold.as_ref().is_some_and(Hold::is_valid));
    let main = interpreter::main();
    let record = match (state, thread.legacy.chosen.get()) {
        (State::Own(state) | State::Given(state), _) => record_of(py, state).unwrap_or(main),
        (State::ToBeMade, Some(chosen)) => match chosen.record() {
            Some(record) => record,
            None => return false,
        },
        (State::ToBeMade, None) => main,
    };
    let hold = if is_inside {
        None
    } else {
        match enter(py, thread, record, matches!(state, State::Own(_))) {
            Entry::Holding(hold) => Some(hold),
            Entry::Free => None,
            Entry::TooLate => return false,
        }
    };
    let (state, made) = match state {
        State::Own(state) => (state, null_mut()),
        State::Given(state) => (state, state),
        State::ToBeMade => {
            let state = make_in(py, record);
            (state, state)
        }
    };
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(state) };
    // SAFETY: as above. There is room: what was noted meanwhile was released again.
    unsafe { thread.legacy.calls() }.push(Call { count: 1, made, hold });
    if !main.is_installed() {
        super::install(py);
    }
    true
}

/// A thread state, in an interpreter that is held.
fn make_in(py: &'static Api, record: &'static Record) -> *mut PyThreadState {
    // SAFETY: held, says the caller.
    let state = unsafe {
        let main = py.PyInterpreterState_Main();
        py.PyThreadState_New(if record.is_main() { main } else { record.interpreter() })
    };
    if state.is_null() {
        no_memory();
    }
    state
}

#[cold]
fn no_memory() -> ! {
    python::fatal(ENSURE, "Couldn't create thread-state for new thread");
}

enum Entry {
    Holding(Hold),
    /// This thread may come in without: it conducts the exit, or CPython decides.
    Free,
    TooLate,
}

/// Takes a hold, or waits for the outcome. `is_known`: the thread has a thread state.
fn enter(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    is_known: bool,
) -> Entry {
    let main = interpreter::main();
    if !main.is_installed() {
        interpreter::prepare_main(py);
    }
    // SAFETY: needs no thread state.
    let is_initialized = unsafe { py.Py_IsInitialized() } != 0;
    if main.gate.is_closed() || !is_initialized {
        // Finalization, or there is no Python.
        let may_pass = thread.legacy.finalizes(main) || !main.gate.is_closed() && is_known;
        return if may_pass { Entry::Free } else { Entry::TooLate };
    }
    // A thread with a thread state may be one that `threading` joins, or be in a call of its own that
    // the exit waits for: if it were kept out, that would be for ever.
    let is_holder = is_known || attach::is_inside(record);
    let claim = if is_holder { Claim::Holder } else { Claim::View };
    loop {
        let life = record.life();
        if record.legacy.enter(claim, &LOBBY) {
            let hold = Hold { record, process: fork::generation(), life };
            if !thread.legacy.seen.is_known() {
                thread.legacy.seen.enlist();
            }
            thread.legacy.seen.holds(Some(record));
            return Entry::Holding(hold);
        }
        if record.legacy.is_closed() {
            let may_pass = thread.legacy.finalizes(record);
            return if may_pass { Entry::Free } else { Entry::TooLate };
        }
        // The exit waits for others. They may come to need this one: then it will be let in.
        std::thread::sleep(KNOCK_AGAIN);
    }
}

const KNOCK_AGAIN: Duration = Duration::from_millis(5);

/// The record of the interpreter of `usual`, if that is a subinterpreter that the library knows.
fn record_of(py: &'static Api, usual: *mut PyThreadState) -> Option<&'static Record> {
    if interpreter::main().gate.is_closed() {
        // It may be freed already.
        return None;
    }
    // SAFETY: a thread's last state is not deleted behind its back.
    let interpreter: *mut PyInterpreterState = unsafe { py.PyThreadState_GetInterpreter(usual) };
    interpreter::by_address(py, interpreter, null_mut())
}

fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no preconditions.
        unsafe { libc::pause() };
    }
}

pub(super) unsafe extern "C" fn release(before: c_int) {
    if before == FAILED {
        return;
    }
    let py = python::get_or_fatal(RELEASE);
    // SAFETY: reads thread-local storage only.
    let state = unsafe { py.PyGILState_GetThisThreadState() };
    if state.is_null() {
        let rule = "auto-releasing thread-state, but no thread-state for this thread";
        python::fatal(RELEASE, rule);
    }
    if !py.is_current(state) {
        let rule = format!("thread state {state:p} must be current when releasing");
        python::fatal(RELEASE, &rule);
    }
    let Some(thread) = Thread::known() else { return release_foreign(py, state, before) };
    // SAFETY: this thread's own, until the next call into Python.
    match unsafe { thread.legacy.calls() }.last_mut() {
        Some(call) if call.count == 1 => end(py, thread, state, before),
        Some(call) => {
            call.count -= 1;
            detach(py, before);
        }
        None if thread.legacy.found.get() != 0 => {
            thread.legacy.found.set(thread.legacy.found.get() - 1);
            detach(py, before);
        }
        None => release_foreign(py, state, before),
    }
}

fn detach(py: &'static Api, before: c_int) {
    if before == UNLOCKED {
        // SAFETY: the thread has a thread state attached.
        unsafe { py.PyEval_SaveThread() };
    }
}

/// The last Release of the innermost call, with `state` attached.
fn end(py: &'static Api, thread: &'static Thread, state: *mut PyThreadState, before: c_int) {
    // SAFETY: one line each.
    let made = unsafe { thread.legacy.calls() }.last().is_some_and(|call| call.made == state);
    if made {
        // Runs destructors, which may use the two functions: the call is still there for them.
        // SAFETY: attached, and made by the call.
        unsafe { py.PyThreadState_Clear(state) };
    }
    // SAFETY: as above. Destructors released what they ensured.
    let call = unsafe { thread.legacy.calls() }.pop();
    if made {
        delete(py, state);
    } else {
        detach(py, before);
    }
    call.into_iter().for_each(|call| give_back(thread, call));
}

/// When the thread is detached: the interpreter may be gone the moment it is not held any more.
fn give_back(thread: &'static Thread, call: Call) {
    if let Some(hold) = call.hold {
        thread.legacy.seen.holds(None);
        hold.give_back();
    }
}

pub(super) unsafe extern "C" fn delete_current() {
    let py = python::get_or_fatal(DELETE);
    let state = attach::attached(py);
    if state.is_null() {
        python::fatal(DELETE, "no thread state is attached to the calling thread");
    }
    let scope = Thread::known().and_then(|thread| {
        // SAFETY: this thread's own, and no call into Python.
        let call = unsafe { thread.legacy.calls() }.pop_if(|call| call.made == state);
        call.map(|call| (thread, call))
    });
    delete(py, state);
    if let Some((thread, call)) = scope {
        give_back(thread, call);
    }
}

/// Detaches the attached thread state, which was cleared, and deletes it. In two steps, as CPython's own function is not to be had any
/// more: what keeps it from going in between is a hold, or that this thread conducts the exit.
fn delete(py: &'static Api, state: *mut PyThreadState) {
    let record = record_of(py, state).unwrap_or(interpreter::main());
    let held = record.legacy.enter(Claim::Holder, &LOBBY);
    // SAFETY: attached.
    unsafe { py.PyEval_SaveThread() };
    if held || Thread::known().is_some_and(|thread| thread.legacy.finalizes(record)) {
        // SAFETY: not attached any more, and nobody's but this thread's. Otherwise it is too late, and the exit deletes it.
        unsafe { py.PyThreadState_Delete(state) };
    }
    if held {
        let _ = record.legacy.leave(&LOBBY);
    }
}

/// The call began in CPython's own function, before the seatbelt was on.
#[cold]
fn release_foreign(py: &'static Api, state: *mut PyThreadState, before: c_int) {
    // SAFETY: CPython's count, of this thread's attached thread state. Without it, Python began after this was on,
    // and no call before.
    unsafe {
        let Some(count) = count_in(py, state) else { return detach(py, before) };
        if *count != 1 {
            *count -= 1;
            return detach(py, before);
        }
        // It stays at 1 for destructors that use the two functions.
        py.PyThreadState_Clear(state);
        *count = 0;
    }
    delete(py, state);
}
