//! `PyGILState_Ensure` and `PyGILState_Release` as the library has them, and what others use in their place.
//!
//! They do what CPython's do, by functions that it exports, and count calls where CPython counts them: so a call may begin in
//! one's Ensure and end in the other's Release. What they do besides: an Ensure in a thread with nothing attached holds
//! the interpreter ([`super::hold`]), and where it is too late for that, the thread is ended ([`crate::late`]).
//!
//! Some attach by themselves, with `PyEval_AcquireThread`:
//!
//! - pybind11's `gil_scoped_acquire`, here a *scope*: in a new thread it makes a thread state, sets the count in it to 0,
//!   attaches it, and at its end counts down to 0 again and calls `PyThreadState_DeleteCurrent`.
//! - cffi keeps the thread state that its first Ensure made, by counting one call more. Up to 2.0 it attached that
//!   by `PyEval_RestoreThread` from then on, which is not redirected: so it goes, for which cffi is prepared.
//!
//! Where the calls of other libraries that attach by themselves end is not known. For them nothing is changed.

use std::ffi::c_int;
use std::ptr::null_mut;

use super::alternatives;
use super::hold::{enter, Until};
use super::states;
use crate::attach;
use crate::birth;
use crate::gate::Claim;
use crate::interpreter::{self, Record, LOBBY};
use crate::late;
use crate::python::{self, sight, Api, PyInterpreterState, PyThreadState};
use crate::thread::Thread;

const LOCKED: c_int = 0;
const UNLOCKED: c_int = 1;
/// Neither of CPython's two.
pub(crate) const FAILED: c_int = 2;

const ENSURE: &str = "PyGILState_Ensure";
const RELEASE: &str = "PyGILState_Release";
const NEW: &str = "PyThreadState_New";
const ACQUIRE: &str = "PyEval_AcquireThread";
const DELETE: &str = "PyThreadState_DeleteCurrent";

/// The calls counted in a thread state, which is the calling thread's own.
unsafe fn count<'a>(state: *mut PyThreadState) -> &'a mut c_int {
    // SAFETY: says the caller; only its own thread uses it.
    unsafe { &mut *states::get().count(state) }
}

/// The same, of one that was seen by `sight`.
#[inline(always)]
fn count_in_sight(state: *mut PyThreadState) -> *mut c_int {
    state.wrapping_byte_add(states::counter_in_sight()).cast()
}

/// What a call attaches.
#[derive(Clone, Copy)]
enum State {
    /// The thread state that `PyGILState` has for this thread.
    Own(*mut PyThreadState),
    /// One that was made for a scope.
    OfScope(*mut PyThreadState),
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

pub(super) unsafe extern "C" fn ensure() -> c_int {
    match sight::attached() {
        Some(state) => ensure_seeing(state),
        None => ensure_by_key(),
    }
}

#[inline(never)]
fn ensure_by_key() -> c_int {
    sight::attached_by_key().map_or_else(ensure_somehow, ensure_seeing)
}

/// `state` is attached to this thread, and known to `PyGILState`; or NULL, and nothing is attached.
#[inline(always)]
fn ensure_seeing(state: *mut PyThreadState) -> c_int {
    if state.is_null() {
        return ensure_detached();
    }
    if !interpreter::main().is_installed() {
        return ensure_somehow();
    }
    // SAFETY: attached to this thread.
    unsafe { *count_in_sight(state) += 1 };
    LOCKED
}

/// With nothing attached.
#[inline(never)]
fn ensure_detached() -> c_int {
    let Some(thread) = Thread::known() else { return ensure_somehow() };
    if !thread.legacy.enter_quickly(thread) {
        return ensure_somehow();
    }
    let py = python::get_or_fatal(ENSURE);
    let own = sight::own(py);
    let main = interpreter::main();
    // SAFETY: a thread's last state is not deleted behind its back, but by the end of its interpreter.
    if own.is_null() || unsafe { sight::is_of(own, main.interpreter()) } != Some(true) {
        return ensure_uncommonly(py, thread, own);
    }
    let count = count_in_sight(own);
    // SAFETY: as above.
    let counted = unsafe { *count } + 1;
    // SAFETY: as above.
    unsafe { *count = counted };
    // Whether there is Python code under it does not matter: who counts calls of its own in a thread state, as cffi
    // does, does so in one that an Ensure made; and that has none.
    thread.legacy.note_quick(counted);
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(own) };
    UNLOCKED
}

/// With the main interpreter held, to be noted still; but `own`, which is not attached, is not of that, or NULL.
#[inline(never)]
fn ensure_uncommonly(py: &'static Api, thread: &'static Thread, own: *mut PyThreadState) -> c_int {
    let legacy = &thread.legacy;
    legacy.note_quick(1);
    if !own.is_null() || legacy.chosen.get().is_some() {
        legacy.leave_quickly(thread);
        return ensure_somehow();
    }
    let state = make(py, thread, interpreter::main().interpreter());
    legacy.note_making(state);
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(state) };
    UNLOCKED
}

/// Whatever is attached, and whoever is first.
#[inline(never)]
fn ensure_somehow() -> c_int {
    let py = python::get_or_fatal(ENSURE);
    let usual = State::usual(py);
    if let State::Own(state) = usual {
        if py.is_current(state) {
            // SAFETY: attached to this thread.
            unsafe {
                *count(state) += 1;
                sight::learn(py, state, interpreter::main().is_installed());
            }
            request_install(py);
            return LOCKED;
        }
    }
    if begin(py, usual).is_some() {
        UNLOCKED
    } else if alternatives::hangs() {
        late::end();
    } else {
        FAILED
    }
}

/// An Ensure in a thread with nothing attached. `None`: it is too late.
fn begin(py: &'static Api, usual: State) -> Option<*mut PyThreadState> {
    let state = attach(py, usual)?;
    if let State::Own(state) = usual {
        // SAFETY: attached to this thread.
        unsafe { *count(state) += 1 };
    }
    // SAFETY: attached to this thread, and known to `PyGILState`.
    unsafe {
        sight::learn(py, state, interpreter::main().is_installed());
        if let Some(thread) = Thread::known() {
            thread.legacy.note_ensure(*count(state));
        }
    }
    Some(state)
}

/// The exit callback is wanted, if it is not there, but not here: this call neither runs Python code nor gives up the GIL.
pub(super) fn request_install(py: &'static Api) {
    let main = interpreter::main();
    // SAFETY: needs no thread state.
    if !main.is_installed() && !main.gate.is_closed() && unsafe { py.Py_IsInitialized() } != 0 {
        interpreter::request_install(py);
    }
}

/// Attaches, with the interpreter held. `None`: it is too late.
fn attach(py: &'static Api, state: State) -> Option<*mut PyThreadState> {
    let Some(thread) = Thread::this() else { no_memory() };
    let main = interpreter::main();
    let record = match (state, thread.legacy.chosen.get()) {
        (State::Own(state) | State::OfScope(state), _) => record_of(py, state).unwrap_or(main),
        (State::ToBeMade, Some(chosen)) => chosen.record()?,
        (State::ToBeMade, None) => main,
    };
    let is_inside = thread.legacy.is_holding();
    if !is_inside && !enter(py, thread, record, matches!(state, State::Own(_))) {
        return None;
    }
    if let (State::ToBeMade, Some(chosen)) = (state, thread.legacy.chosen.get()) {
        // Again, now that it is held: until then the record could become another interpreter's.
        if chosen.record().is_none() {
            if !is_inside {
                thread.legacy.give_back();
            }
            return None;
        }
    }
    let attached = match state {
        State::Own(state) | State::OfScope(state) => state,
        State::ToBeMade => {
            let state = make_in(py, thread, record);
            thread.legacy.note_making(state);
            state
        }
    };
    // SAFETY: this thread's own thread state, which is not attached.
    unsafe { py.PyEval_RestoreThread(attached) };
    if !is_inside {
        thread.legacy.keep(match state {
            State::OfScope(state) => Until::Deleted(state),
            _ => {
                // SAFETY: attached.
                let alone = unsafe { py.PyEval_GetFrame() }.is_null();
                Until::Released { ensures: 0, counted: 0, alone }
            }
        });
    }
    Some(attached)
}

/// A thread state, with one call counted, in an interpreter that is held.
fn make_in(py: &'static Api, thread: &Thread, record: &'static Record) -> *mut PyThreadState {
    // SAFETY: needs no thread state.
    let main = unsafe { py.PyInterpreterState_Main() };
    make(py, thread, if record.is_main() { main } else { record.interpreter() })
}

/// The same.
#[inline(always)]
fn make(py: &Api, thread: &Thread, interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
    // SAFETY: held, says the caller; and then the thread state just made, which nobody else knows.
    unsafe {
        let state = birth::of_thread_state(py, thread, || states::get().make(interpreter));
        if state.is_null() {
            no_memory();
        }
        *count(state) = 1;
        state
    }
}

#[cold]
fn no_memory() -> ! {
    python::fatal(ENSURE, "Couldn't create thread-state for new thread");
}

/// The record of the interpreter of `own`, if that is one that the library knows.
fn record_of(py: &'static Api, own: *mut PyThreadState) -> Option<&'static Record> {
    // SAFETY: a thread's last state is not deleted behind its back, but by the end of its interpreter.
    let interpreter = while_alive(py, || unsafe { py.PyThreadState_GetInterpreter(own) })?;
    interpreter::known_at(py, interpreter)
}

pub(super) unsafe extern "C" fn release(before: c_int) {
    match sight::attached() {
        Some(state) => release_seeing(before, state),
        None => release_by_key(before),
    }
}

#[inline(never)]
fn release_by_key(before: c_int) {
    match sight::attached_by_key() {
        Some(state) => release_seeing(before, state),
        None => release_somehow(before),
    }
}

/// As [`ensure_seeing`].
#[inline(always)]
fn release_seeing(before: c_int, state: *mut PyThreadState) {
    if state.is_null() {
        return release_somehow(before);
    }
    let count = count_in_sight(state);
    // SAFETY: attached to this thread.
    let counted = unsafe { *count };
    if before == LOCKED && counted != 1 {
        // SAFETY: as above.
        unsafe { *count = counted - 1 };
        return;
    }
    match Thread::known() {
        Some(thread) if before == UNLOCKED && thread.legacy.is_quick(counted) => {
            release_quick(thread, state, count);
        }
        _ => release_somehow(before),
    }
}

/// The Release of an Ensure that took a hold the quick way.
#[inline(never)]
fn release_quick(thread: &Thread, state: *mut PyThreadState, count: *mut c_int) {
    let made = thread.legacy.has_made(state);
    // SAFETY: the count of the thread state that is attached to this thread.
    let counted = unsafe { *count };
    if made || counted == 1 {
        return if made && counted == 1 {
            release_made(thread, state, count);
        } else {
            // Another keeps what an Ensure made; or the last call is not that which made it.
            release_somehow(UNLOCKED);
        };
    }
    // SAFETY: as above, until it is detached.
    unsafe {
        *count = counted - 1;
        python::get_or_fatal(RELEASE).PyEval_SaveThread();
    }
    thread.legacy.leave_quickly(thread);
}

/// The same where that Ensure made the thread state.
#[inline(never)]
fn release_made(thread: &Thread, state: *mut PyThreadState, count: *mut c_int) {
    let py = python::get_or_fatal(RELEASE);
    let legacy = &thread.legacy;
    // SAFETY: attached to this thread, until the lines that say otherwise; and its own count.
    unsafe {
        // One call is still counted, for destructors that use the two functions.
        py.PyThreadState_Clear(state);
        *count = 0;
        if !legacy.is_quick(1) {
            // They did more than that.
            delete(py, state);
            legacy.note_deletion(state);
            return legacy.give_back();
        }
        if !states::get().delete_current(state) {
            // In two steps, see `delete`: the interpreter is held.
            py.PyEval_SaveThread();
            py.PyThreadState_Delete(state);
        }
    }
    legacy.note_making(null_mut());
    legacy.leave_quickly(thread);
}

/// Whatever is attached.
#[inline(never)]
fn release_somehow(before: c_int) {
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
    let thread = Thread::known();
    // SAFETY: attached to this thread, until the lines that say otherwise.
    unsafe {
        *count(state) -= 1;
        let is_last = *count(state) == 0;
        if !is_last && before != UNLOCKED {
            return;
        }
        let over_python = !is_last && !py.PyEval_GetFrame().is_null();
        if is_last || thread.is_some_and(|t| t.legacy.goes_nevertheless(state, over_python)) {
            // One call is still counted, for destructors that use the two functions.
            *count(state) = 1;
            py.PyThreadState_Clear(state);
            *count(state) = 0;
            delete(py, state);
            if let Some(thread) = thread {
                thread.legacy.note_deletion(state);
            }
        } else {
            py.PyEval_SaveThread();
            sight::choose_place();
        }
        if let Some(thread) = thread {
            thread.legacy.note_release(over_python);
        }
    }
}

/// A thread with nothing attached may be about to begin a scope: after the end of Python it is ended.
pub(super) unsafe extern "C" fn new(interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
    let py = python::get_or_fatal(NEW);
    let make = || {
        // SAFETY: the caller's interpreter, which does not end now.
        let make = || unsafe { states::get().make(interpreter) };
        match birth::matters(py).then(Thread::this).flatten() {
            Some(thread) => birth::of_thread_state(py, thread, make),
            None => make(),
        }
    };
    if attach::attached(py).is_null() {
        while_alive(py, make).unwrap_or_else(|| late::end())
    } else {
        make()
    }
}

/// Does something quick while the thread states of the main interpreter do not go. `None`: they have, or are about to.
fn while_alive<T>(py: &'static Api, work: impl FnOnce() -> T) -> Option<T> {
    let main = interpreter::main();
    if main.gate.is_closed() {
        // Unless it is alive again.
        interpreter::prepare_main(py);
    }
    trying_to_hold(main, |stays| (stays || !states::get().are_going()).then(work))
}

/// Does something quick, with the interpreter held if it is not too late. It is told whether the interpreter stays
/// meanwhile: because of that, or as this thread conducts the exit.
fn trying_to_hold<T>(record: &'static Record, work: impl FnOnce(bool) -> T) -> T {
    let held = record.legacy.enter(Claim::Holder, &LOBBY);
    let stays = held || Thread::known().is_some_and(|thread| thread.legacy.finalizes(record));
    let done = work(stays);
    if held {
        let _ = record.legacy.leave(&LOBBY);
    }
    done
}

/// CPython calls this too, while it waits for locks of its own: so it runs no Python code.
pub(super) unsafe extern "C" fn acquire_thread(state: *mut PyThreadState) {
    let py = python::get_or_fatal(ACQUIRE);
    if state.is_null() {
        python::fatal(ACQUIRE, "the thread state is NULL");
    }
    // SAFETY: a thread state that the caller may attach, so its own; it goes with its interpreter.
    let counted = while_alive(py, || unsafe { *count(state) }).unwrap_or_else(|| late::end());
    if counted != 0 {
        // SAFETY: as the caller of CPython's own function promises.
        return unsafe { py.PyEval_RestoreThread(state) };
    }
    if attach(py, State::OfScope(state)).is_none() {
        late::end();
    }
}

pub(super) unsafe extern "C" fn delete_current() {
    let py = python::get_or_fatal(DELETE);
    let state = attach::attached(py);
    if state.is_null() {
        python::fatal(DELETE, "no thread state is attached to the calling thread");
    }
    delete(py, state);
    if let Some(thread) = Thread::known() {
        thread.legacy.note_deletion(state);
    }
}

/// Detaches the attached thread state, which was cleared, and deletes it. In two steps where no function does both, as from
/// 3.13 on where the original could not be copied: then what keeps it from going in between is a hold, or that this thread
/// conducts the exit.
fn delete(py: &'static Api, state: *mut PyThreadState) {
    // SAFETY: attached and cleared, says the caller.
    if unsafe { states::get().delete_current(state) } {
        return;
    }
    request_install(py);
    let record = record_of(py, state).unwrap_or(interpreter::main());
    trying_to_hold(record, |stays| {
        // SAFETY: attached.
        unsafe { py.PyEval_SaveThread() };
        if stays {
            // SAFETY: not attached any more, and nobody's but this thread's. Otherwise it is too late, and the exit
            // deletes it.
            unsafe { py.PyThreadState_Delete(state) };
        }
    });
}

/// Where this thread is attached by an Ensure, while it has no thread state. `false`: cannot be.
pub(crate) fn choose_interpreter(py: &'static Api, interpreter: *mut PyInterpreterState) -> bool {
    if let Some(done) = alternatives::choose_by_copy(interpreter) {
        return done;
    }
    let Some(thread) = Thread::this() else { return false };
    // SAFETY: needs no thread state.
    if interpreter.is_null() || interpreter == unsafe { py.PyInterpreterState_Main() } {
        thread.legacy.chosen.set(None);
        return true;
    }
    if !super::is_on() {
        return false;
    }
    let before = thread.legacy.chosen.get();
    let attached = attach::attached(py);
    let mut chosen = alternatives::choose(py, interpreter, attached);
    if chosen.is_none() && attached.is_null() {
        // One that the library was never used in is looked for with something attached.
        thread.legacy.chosen.set(None);
        if let Some(state) = begin(py, State::usual(py)) {
            chosen = alternatives::choose(py, interpreter, state);
            // SAFETY: of the call just begun.
            unsafe { release(UNLOCKED) };
        }
    }
    thread.legacy.chosen.set(chosen.or(before));
    chosen.is_some()
}
