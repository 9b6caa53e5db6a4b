//! The exit callback: installing it, keeping it installed, and the wait itself.
//!
//! The callback lives in the interpreter's own `atexit`, which is the last thing that
//! finalization runs while threads can still attach, on every version, for the main
//! interpreter (`Py_FinalizeEx`) and for subinterpreters (`Py_EndInterpreter`).
//!
//! The wait itself comes later: after the exit callbacks of the program that are older than ours.
//! `atexit` gives its list up when all callbacks have run, still before finalization is marked. So
//! our callback registers one more, the *last*, which is there only to be given up: the destructor
//! of its capsule waits.

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::attach::{self, Hold, Receipt};
use crate::daemon;
use crate::fence;
use crate::gate::close_together;
use crate::interpreter::{self, registry, Record, LOBBY};
use crate::python::atexit::{self, LateCallback, LateCallbacks};
use crate::python::threading::{self, JoinedByExit, NotTold};
use crate::python::{
    self, sight, switch_interval, Api, CapsuleDestructor, MethodDef, Owned, PyObject,
};
use crate::report::{Awaited, Wait};
use crate::say::say;
use crate::tally::ROLL;
use crate::thread::{forget_the_gone, Thread};
use crate::{seatbelt, settings};

const CAPSULE: &CStr = c"pep788.exit_callback";
const LAST_CAPSULE: &CStr = c"pep788.last_exit_callback";

/// How often a waiting exit looks for signals, which do not wake it.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

static EXIT_CALLBACK: MethodDef = MethodDef::no_arguments(
    c"pep788_exit_begins",
    exit_callback,
    c"Has the interpreter wait for all PEP 788 guards before it finalizes.",
);

static LAST_CALLBACK: MethodDef = MethodDef::no_arguments(
    c"pep788_wait_for_guards",
    last_callback,
    c"Lets the interpreter finalize when all PEP 788 guards are closed.",
);

/// Registers the exit callback with `atexit.register`. `false`: failed, with an exception set.
///
/// # Safety
/// The calling thread is attached to the record's interpreter.
pub(crate) unsafe fn install(py: &'static Api, record: &'static Record, register: &Owned) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        // `threading` keeps the list of threads too. The capsule is only in the callback, so that
        // it goes when `atexit` drops that.
        JoinedByExit::watch(py).is_some_and(|joined| {
            let joined = joined.as_object();
            register_in(py, record, register, &EXIT_CALLBACK, (CAPSULE, dropped), joined)
        })
    }
}

/// Registers a callback whose `self` is a tuple: a capsule, with its name and destructor, that
/// knows the record; and `joined`, which the capsule has a reference to as well, as its context.
/// `false`: failed, with an exception set.
///
/// # Safety
/// The calling thread is attached to the record's interpreter.
unsafe fn register_in(
    py: &'static Api,
    record: &'static Record,
    register: &Owned,
    callback: &'static MethodDef,
    (name, destructor): (&CStr, CapsuleDestructor),
    joined: &Owned,
) -> bool {
    // SAFETY: attached, says the caller; the names and method definitions live for ever.
    unsafe {
        let capsule = py.PyCapsule_New(record.ticket(), name.as_ptr(), None);
        let Some(capsule) = Owned::new(py, capsule) else {
            return false;
        };
        let registered = python::tuple(py, &[&capsule, joined])
            .and_then(|this| callback.function(py, &this))
            .is_some_and(|callback| register.call(Some(&callback)).is_some());
        if registered {
            // Only now, so that a failure leaves nothing behind; and in time, as this thread has a
            // reference to the capsule yet. Release: pairs with the look at the count before a
            // guard is given.
            record.callbacks.fetch_add(1, Ordering::Release);
            if py.PyCapsule_SetContext(capsule.as_ptr(), joined.as_ptr().cast()) == 0 {
                py.Py_IncRef(joined.as_ptr());
            }
            py.PyCapsule_SetDestructor(capsule.as_ptr(), Some(destructor));
        }
        registered
    }
}

/// Called by `atexit`, with the tuple made by `install`.
unsafe extern "C" fn exit_callback(this: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    let py = python::get_or_fatal("pep788_exit_begins");
    // SAFETY: CPython calls this attached; the items are borrowed from the tuple.
    unsafe {
        let capsule = py.PyTuple_GetItem(this, 0);
        let threads = Owned::of_borrowed(py, py.PyTuple_GetItem(this, 1));
        let ticket = py.PyCapsule_GetPointer(capsule, CAPSULE.as_ptr());
        if let (Some(record), Some(threads)) = (Record::of_ticket(ticket), threads) {
            if is_finalizing(py, record) && !is_put_off(py, record, &threads) {
                wait_for_guards(py, record, Some(JoinedByExit::from_object(threads)));
            }
        }
        py.new_none()
    }
}

/// Has the wait come after the exit callbacks that are yet to be called. `false`: it cannot be had,
/// for want of memory, or as `atexit.register` is not CPython's own any more and might keep what is
/// registered.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_put_off(py: &'static Api, record: &'static Record, joined: &Owned) -> bool {
    // SAFETY: attached, says the caller.
    unsafe {
        let _exception = python::KeepException::new(py);
        let last = (LAST_CAPSULE, all_have_run as CapsuleDestructor);
        let registered = atexit::own_register(py).is_some_and(|register| {
            register_in(py, record, &register, &LAST_CALLBACK, last, joined)
        });
        py.PyErr_Clear();
        registered
    }
}

/// It is there to be given up, and has nothing to do. CPython calls nothing that is registered while
/// exit callbacks run; somebody who runs them by hand may.
unsafe extern "C" fn last_callback(_: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    // SAFETY: CPython calls this attached.
    unsafe { python::get_or_fatal("pep788_wait_for_guards").new_none() }
}

/// The record that a callback in a list of `atexit` is for, if that is still in the same life.
///
/// # Safety
/// `capsule` was made by `register_in`, with this name.
unsafe fn record_of(
    py: &'static Api,
    capsule: *mut PyObject,
    name: &CStr,
) -> Option<&'static Record> {
    // SAFETY: says the caller; and that is a ticket.
    unsafe { Record::of_ticket(py.PyCapsule_GetPointer(capsule, name.as_ptr())) }
}

/// One callback less in a list of `atexit`. Gives whether its record has no other.
///
/// # Safety
/// As for `record_of`.
unsafe fn one_less(py: &'static Api, capsule: *mut PyObject, name: &CStr) -> bool {
    // Locked before the look at the ticket: only so the record stays in that life.
    let _registry = registry();
    // SAFETY: says the caller.
    let Some(record) = (unsafe { record_of(py, capsule, name) }) else { return false };
    let before = record.callbacks.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
        // Zero: the record's interpreter was given up before.
        count.checked_sub(1)
    });
    before == Ok(1)
}

/// `atexit` gave the last callback up: all callbacks have run.
unsafe extern "C" fn all_have_run(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this attached, with a capsule made by `register_in`.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let _exception = python::KeepException::new(py);
        if let Some(record) = record_of(py, capsule, LAST_CAPSULE) {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        // Not before: whoever comes meanwhile needs no other callback.
        one_less(py, capsule, LAST_CAPSULE);
    }
}

/// `atexit` gave the callback up: after it ran, or because somebody cleared or unregistered it.
unsafe extern "C" fn dropped(capsule: *mut PyObject) {
    let Some(py) = python::get() else { return };
    // SAFETY: CPython calls this attached, with a capsule made by `install`.
    unsafe {
        let joined = Owned::new(py, py.PyCapsule_GetContext(capsule).cast());
        let Some(record) = record_of(py, capsule, CAPSULE) else { return };
        let _exception = python::KeepException::new(py);
        // No Python code runs below: `atexit` tidies up at the very end, and the callback was registered too late to be
        // called. This is the last chance to wait.
        let is_last_chance = py.PyEval_GetFrame().is_null() && !is_run_by_a_host(py, record);
        // Acquire: pairs with the registration.
        let is_only_one = record.callbacks.load(Ordering::Acquire) == 1;
        if is_last_chance && is_only_one && !record.gate.is_closed() {
            wait_for_guards(py, record, joined.map(JoinedByExit::from_object));
        }
        let was_last = one_less(py, capsule, CAPSULE);
        if was_last && !is_last_chance && record.is_main() && !record.gate.is_closed() {
            // Not here: `atexit` is in the middle of clearing its list.
            interpreter::request_install(py);
        }
        // A subinterpreter's comes back with the next use that is attached to it.
    }
}

/// Whether the interpreter of `record` is being shut down, or somebody merely runs the exit callbacks
/// (`atexit._run_exitfuncs()`).
///
/// # Safety
/// The calling thread is attached to it.
unsafe fn is_finalizing(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, says the caller; the frame is borrowed.
    unsafe {
        if py.PyEval_GetFrame().is_null() {
            return !is_run_by_a_host(py, record);
        }
        // Python code below, but no `threading` to ask: either somebody calls `atexit` by
        // hand, or a program that runs Python code calls `Py_FinalizeEx`.
        threading::is_shutting_down(py).unwrap_or_else(|| !atexit::is_run_by_hand(py))
    }
}

/// With no Python code below: whether C code calls `atexit` in the middle of a run. Of a subinterpreter that is taken for
/// its end: hosts do so right before `Py_EndInterpreter` (mod_wsgi), and nothing would bring the callback back in time.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn is_run_by_a_host(py: &'static Api, record: &'static Record) -> bool {
    // SAFETY: attached, says the caller.
    record.is_main() && unsafe { atexit::is_run_by_hand(py) }
}

/// Waits until no guard is out, and closes the gate. The main interpreter waits for all
/// interpreters, because its end takes the ground from under threads in any of them.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn wait_for_guards(py: &'static Api, record: &'static Record, joined: Option<JoinedByExit>) {
    if record.gate.is_closed() {
        // The main interpreter's wait covered this one.
        return;
    }
    give_up_own_holds(record);
    seatbelt::note_finalizer(record);
    let begun = Instant::now();
    let mut belt = seatbelt::Wait::new(begun);
    let grace_over = settings::get().drain_grace.map(|grace| begun + grace);
    let mut report = Wait::new(record, begun);
    let mut patience = LEAVING;
    // SAFETY: attached, says the caller; attached again at the end of each round.
    unsafe {
        let _exception = python::KeepException::new(py);
        let interval = calm_crowd(py);
        let joined = joined.or_else(|| JoinedByExit::watch(py));
        py.PyErr_Clear();
        seatbelt::run_at_fini(py, |other| covers(record, other));
        let mut late_callbacks = None;
        let mut awaited = None;
        loop {
            // Again at once, and later, if there was no memory for it.
            for _ in 0..2 {
                late_callbacks = late_callbacks.or_else(|| LateCallbacks::note(py));
            }
            let state = py.PyEval_SaveThread();
            let look = next_look(grace_over, &belt);
            let free = wait_detached(record, grace_over, &belt, look);
            if !free {
                forget_the_gone();
            }
            if let Some(text) = belt.report(record, |other| covers(record, other)) {
                say(text.as_str().as_bytes());
            }
            py.PyEval_RestoreThread(state);
            if !free {
                report.look_around(py, Awaited::Guards, || guards_out(record));
                continue;
            }
            // What late threads and callbacks do may need guards again.
            if a_thread_is_late(py, joined.as_ref(), &mut awaited, &mut patience) {
                report.look_around(py, Awaited::Threads, || guards_out(record));
                pause(py);
            } else if let Some(callback) = late_callbacks.as_ref().and_then(|late| late.take()) {
                run_holding(py, record, callback);
            } else if another_is_leaving(py, record, &mut patience) {
                pause(py);
            } else if close(record, honours_views(grace_over), &belt) {
                break;
            }
        }
        if seatbelt::is_on() && record.is_main() {
            let own = threading::native_ids(py);
            let state = py.PyEval_SaveThread();
            seatbelt::linger(&own);
            py.PyEval_RestoreThread(state);
        }
        if record.is_main() {
            seatbelt::bound_exit();
        }
        if let Some(late) = late_callbacks {
            late.end(|callback| run(py, callback));
        }
        // Others go on with the GIL of a subinterpreter. What still wants the main one's is in the way of its end.
        if let Some(interval) = interval.filter(|_| !record.is_main()) {
            switch_interval::restore(py, interval);
        }
    }
}

/// So many threads that use the library are a crowd.
const CROWD: usize = 200;

/// A thread that waits for the GIL wakes every 5 ms, by the lock of the GIL. Thousands of them keep all processors busy
/// with that, and those that are waited for do not come to the GIL, nor does the exit. So a crowd wakes less often: by
/// the interval of this GIL, which is told what it was before.
///
/// # Safety
/// The calling thread is attached.
unsafe fn calm_crowd(py: &'static Api) -> Option<Duration> {
    // By the square: each has to wake in turn, and to wake one the kernel looks through all that wait for the lock.
    const FOR_EACH_PAIR: Duration = Duration::from_nanos(100);
    // Until then a thread that runs Python code without a pause may keep the GIL.
    const AT_MOST: Duration = Duration::from_secs(5);
    let size = ROLL.lock().len();
    let pairs = u32::try_from(size.saturating_mul(size)).unwrap_or(u32::MAX);
    let interval = FOR_EACH_PAIR.saturating_mul(pairs).min(AT_MOST);
    // SAFETY: attached, says the caller.
    (size > CROWD).then(|| unsafe { switch_interval::lengthen(py, interval) }).flatten()
}

/// When a waiting exit attaches next, to look for signals. A crowd of threads that call without a pause keeps it from
/// attaching for seconds, and views are honoured meanwhile: so among them it first closes the door to those.
fn next_look(grace_over: Option<Instant>, belt: &seatbelt::Wait) -> Instant {
    let look = Instant::now() + SIGNALS_EVERY;
    let is_crowded = ROLL.lock().len() > CROWD;
    let ends = [grace_over, belt.over()].into_iter().flatten();
    ends.filter(|_| is_crowded).fold(look, Instant::max)
}

/// Whether a thread is to be waited for that `threading` started since the exit began. `awaited` is
/// the one found last: it is done with Python code, and not known any more, before it is over.
///
/// # Safety
/// The calling thread is attached.
unsafe fn a_thread_is_late(
    py: &'static Api,
    joined: Option<&JoinedByExit>,
    awaited: &mut Option<Owned>,
    patience: &mut Duration,
) -> bool {
    if let Some(thread) = awaited {
        match threading::is_over(thread) {
            Some(true) => *awaited = None,
            Some(false) => return true,
            None if have_patience(patience) => return true,
            None => return false,
        }
    }
    let Some(joined) = joined else { return false };
    // SAFETY: attached, says the caller. In this order: the second one sees those too that came to
    // their end since the first.
    let late = unsafe {
        joined.late_thread(py).and_then(|thread| {
            *awaited = thread;
            Ok(awaited.is_some() || joined.is_one_ending(py)?)
        })
    };
    late.unwrap_or_else(|NotTold| have_patience(patience))
}

/// Runs a callback in an Ensure, as a thread that may take guards after the grace too: until the
/// callback returns, the interpreter does not go on to finalize.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn run_holding(py: &'static Api, record: &'static Record, callback: LateCallback) {
    // SAFETY: attached, says the caller, and so alive.
    unsafe {
        let hold = Hold::another(record);
        let held = Thread::this()
            .and_then(|thread| attach::ensure(py, thread, record, hold, Receipt::None))
            .is_some();
        run(py, callback);
        if held {
            attach::release(py, "pep788_wait_for_guards", 0);
        } else if let Some(hold) = hold {
            let _ = hold.give_back();
        }
    }
}

/// # Safety
/// The calling thread is attached.
unsafe fn run(py: &'static Api, callback: LateCallback) {
    // SAFETY: attached, says the caller.
    unsafe {
        if let Err(function) = callback.run(py) {
            py.PyErr_WriteUnraisable(function.as_ptr());
        }
    }
}

/// Gives others a moment.
///
/// # Safety
/// The calling thread is attached.
unsafe fn pause(py: &'static Api) {
    // SAFETY: attached, says the caller, and again afterwards.
    unsafe {
        let state = py.PyEval_SaveThread();
        std::thread::sleep(A_MOMENT);
        py.PyEval_RestoreThread(state);
    }
}

/// Takes a moment from it; `false`: none is left.
fn have_patience(patience: &mut Duration) -> bool {
    let left = !patience.is_zero();
    *patience = patience.saturating_sub(A_MOMENT);
    left
}

/// How long another thread state of a subinterpreter is given to go away.
const LEAVING: Duration = Duration::from_millis(100);
const A_MOMENT: Duration = Duration::from_millis(1);

/// Whether a thread state seems about to be deleted. One that `SetDaemon(0)` made non-daemon drops
/// its hold while it is cleared; if finalization came before it is deleted, it would be deleted
/// twice, and `Py_EndInterpreter` would be fatal. Nothing tells when it is, so this is asked again
/// for a while.
///
/// # Safety
/// The calling thread is attached to the interpreter of `record`.
unsafe fn another_is_leaving(
    py: &'static Api,
    record: &'static Record,
    patience: &mut Duration,
) -> bool {
    // Not of other interpreters, which may go on like that for as long as they live.
    if registry().live().any(|other| covers(record, other) && daemon::is_one_leaving(other)) {
        return true;
    }
    if record.is_main() || !have_patience(patience) {
        return false;
    }
    let own = attach::attached(py);
    // SAFETY: attached, says the caller; only the own thread state is looked into.
    unsafe {
        py.PyInterpreterState_ThreadHead(record.interpreter()) != own
            || !py.PyThreadState_Next(own).is_null()
    }
}

/// Holds of the thread that finalizes itself: it cannot come to its Release while it waits, so
/// waiting for them would be for ever.
fn give_up_own_holds(record: &'static Record) {
    if let Some(thread) = Thread::known() {
        let levels = &thread.levels;
        let covered = |index: &usize| levels.get(*index).is_some_and(|l| covers(record, l.record));
        for hold in (0..levels.len()).filter(covered).filter_map(|index| levels.take_hold(index)) {
            let _ = hold.give_back_by(thread);
        }
    }
    seatbelt::give_up_own_holds(|other| covers(record, other));
}

fn covers(record: &'static Record, other: &'static Record) -> bool {
    record.is_main() || std::ptr::eq(record, other)
}

/// The interpreters that the exit of `record` waits for, and how many guards are out on each; as far
/// as there is memory to list them.
fn guards_out(record: &'static Record) -> Vec<(&'static Record, usize)> {
    let mut out = Vec::new();
    for other in registry().live().filter(|other| covers(record, other)) {
        let guards = other.guards();
        if guards != 0 && out.try_reserve(1).is_ok() {
            out.push((other, guards));
        }
    }
    out
}

fn honours_views(grace_over: Option<Instant>) -> bool {
    grace_over.is_none_or(|grace_over| Instant::now() < grace_over)
}

/// Closes the gates that the exit of `record` covers, if no guard is out.
fn close(record: &'static Record, honour_views: bool, belt: &seatbelt::Wait) -> bool {
    // While no interpreter can come or go.
    let registry = registry();
    let covered = registry.live().filter(|other| covers(record, other));
    let legacy_too = belt.goes_on();
    let gates = covered.clone().flat_map(|other| {
        [Some(&other.gate), legacy_too.then_some(&other.legacy)].into_iter().flatten()
    });
    let seat = LOBBY.enter();
    let is_tallied = |other: &'static Record| {
        let owner = other.owner();
        ROLL.sum(owner) != 0 || legacy_too && ROLL.sum(owner.of_gilstate()) != 0
    };
    let tallied = || covered.clone().any(is_tallied);
    let closed = close_together(gates, tallied, honour_views, &seat);
    if closed {
        covered.for_each(|other| other.legacy.condemn());
        if record.is_main() {
            sight::forget_run();
        }
    }
    closed
}

/// Waits with nothing attached, until no guard is out (`true`) or until `pause`.
fn wait_detached(
    record: &'static Record,
    grace_over: Option<Instant>,
    belt: &seatbelt::Wait,
    pause: Instant,
) -> bool {
    loop {
        let honour_views = honours_views(grace_over);
        // Found anew each time: interpreters come and go while the main one waits.
        let seat = {
            let registry = registry();
            let covered = registry.live().filter(|other| covers(record, other));
            let seat = LOBBY.enter();
            covered.clone().for_each(|other| other.gate.drain(honour_views));
            // Holds that are tallied after this see the gate.
            fence::heavy();
            let guards_are_out = covered.clone().any(|other| other.guards() != 0);
            let lets_in = belt.lets_in(guards_are_out, grace_over);
            covered.clone().for_each(|other| other.legacy.drain(lets_in));
            // And those of PyGILState's calls.
            fence::heavy();
            let waits = guards_are_out
                || belt.goes_on() && covered.clone().any(|other| other.legacy_guards() != 0);
            waits.then_some(seat)
        };
        let Some(seat) = seat else { return true };
        if Instant::now() >= pause {
            return false;
        }
        // The lobby's lock is held since the look at the counts, so no bell is missed.
        let pause = belt.next_change(pause);
        let wake = if honour_views { grace_over.map_or(pause, |g| g.min(pause)) } else { pause };
        drop(LOBBY.wait(seat, Some(wake)));
    }
}
