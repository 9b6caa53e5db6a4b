//! Ensure and Release: which thread state a thread gets, the thread's stack of Ensures, and
//! exact restoration.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::daemon::{self, Dropped};
use crate::fork;
use crate::gate::{Claim, NotOut};
use crate::interpreter::{Record, LOBBY};
use crate::memory::try_box;
use crate::python::{self, Api, GilstateSlot, PyThreadState};

/// A guard that a level of the stack, or a thread state, keeps by itself.
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    record: &'static Record,
    /// The process it belongs to: a forked child does not inherit it.
    generation: usize,
    /// Which of the interpreters that had the record.
    life: usize,
}

impl Hold {
    /// For a guard that was just taken on `record`, in this process.
    pub(crate) fn of(record: &'static Record) -> Hold {
        Hold { record, generation: fork::generation(), life: record.life() }
    }

    /// One more, from somebody who keeps the interpreter from finalizing already.
    pub(crate) fn another(record: &'static Record) -> Option<Hold> {
        record.gate.enter(Claim::Holder, &LOBBY).then(|| Hold::of(record))
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.generation == fork::generation() && self.life == self.record.life()
    }

    pub(crate) fn give_back(self) -> Result<(), NotOut> {
        if self.is_valid() {
            self.record.gate.leave(&LOBBY)
        } else {
            Ok(())
        }
    }
}

/// One Ensure that waits for its Release.
pub(crate) struct Level {
    pub(crate) record: &'static Record,
    /// What this Ensure attached, or found attached.
    pub(crate) state: *mut PyThreadState,
    way: Way,
    /// Keeps the interpreter from finalizing until Release, if this kind of Ensure does.
    pub(crate) hold: Option<Hold>,
    /// What `SetDaemon(1)` took from outside this level, until its Release.
    pub(crate) dropped: Dropped,
    serial: u16,
    receipt: Receipt,
}

/// Whether Ensure's caller has a token to show at Release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    Token,
    None,
}

enum Way {
    /// Was attached already.
    Reused,
    /// Was this thread's last thread state, detached.
    Reattached,
    /// Made for this Ensure; `outer` was attached before.
    Created { outer: *mut PyThreadState, slot: Option<GilstateSlot> },
}

/// What the library knows of one thread.
#[derive(Default)]
pub(crate) struct Thread {
    pub(crate) levels: Vec<Level>,
    serial: u16,
}

thread_local! {
    /// Without a destructor, so that it can be used as long as the thread runs any code: other
    /// destructors may call into Python. See `forget` for the end of it.
    static THREAD: Cell<*mut Thread> = const { Cell::new(null_mut()) };
}

/// This thread's part of the library's memory. `None`: out of memory.
///
/// The reference must not outlive a call into Python, which may come back here.
fn this_thread() -> Option<&'static mut Thread> {
    let mut thread = THREAD.get();
    if thread.is_null() {
        thread = enroll()?;
    }
    // SAFETY: made by `enroll` for this thread alone, freed only when it ends; and callers keep
    // the reference for a few lines without calls.
    Some(unsafe { &mut *thread })
}

#[cold]
fn enroll() -> Option<*mut Thread> {
    unsafe extern "C" fn forget(thread: *mut libc::c_void) {
        THREAD.set(null_mut());
        // SAFETY: the box that `enroll` made for this thread.
        let thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
        // A thread that ends inside an Ensure will not come to its Release; the interpreter
        // must not wait for it.
        for level in &thread.levels {
            if let Some(hold) = level.hold {
                let _ = hold.give_back();
            }
        }
    }
    // A key of POSIX rather than a Rust destructor: it runs after the C++ ones, and once more
    // if the thread uses the library again after that.
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = (*KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is a valid place; the library is never unloaded.
        let made = unsafe { libc::pthread_key_create(&mut key, Some(forget)) } == 0;
        made.then_some(key)
    }))?;
    let mut thread = try_box(Thread::default())?;
    // Two tokens of one thread differ, and most of different threads.
    thread.serial = (std::ptr::from_ref(&*thread) as usize >> 4) as u16;
    let thread = Box::into_raw(thread);
    // SAFETY: the key exists; the value is the box just made.
    if unsafe { libc::pthread_setspecific(key, thread.cast()) } != 0 {
        // SAFETY: nobody has seen it.
        drop(unsafe { Box::from_raw(thread) });
        return None;
    }
    THREAD.set(thread);
    Some(thread)
}

/// The Ensures of this thread, outermost first.
///
/// Like [`this_thread`], for a few lines without calls into Python.
pub(crate) fn levels() -> &'static mut [Level] {
    let thread = THREAD.get();
    if thread.is_null() {
        return &mut [];
    }
    // SAFETY: as in `this_thread`.
    unsafe { &mut (*thread).levels }
}

/// The thread state attached to this thread, or NULL.
pub(crate) fn attached(py: &Api) -> *mut PyThreadState {
    let ensured = levels().last().map_or(null_mut(), |level| level.state);
    python::attached(py, ensured)
}

/// The thread state attached to this thread, or a fatal error.
pub(crate) fn attached_or_fatal(py: &Api, function: &str) -> *mut PyThreadState {
    let state = attached(py);
    if state.is_null() {
        python::fatal(
            function,
            "the calling thread has no attached thread state; \
             this function may only be called with one, see PyThreadState_Ensure",
        );
    }
    state
}

/// Whether this thread state was made for an Ensure of this thread.
pub(crate) fn was_created(state: *mut PyThreadState) -> bool {
    levels().iter().any(|level| level.state == state && matches!(level.way, Way::Created { .. }))
}

/// Whether this thread is inside an Ensure of this interpreter.
pub(crate) fn is_inside(record: &'static Record) -> bool {
    levels().iter().any(|level| std::ptr::eq(level.record, record))
}

/// Attaches this thread to the interpreter of `record`. `None`: out of memory; what was
/// attached before still is.
///
/// # Safety
/// The interpreter is alive and stays alive: the caller has a guard.
pub(crate) unsafe fn ensure(
    py: &'static Api,
    record: &'static Record,
    hold: Option<Hold>,
    receipt: Receipt,
) -> Option<usize> {
    // All that can fail on our side comes first.
    let thread = this_thread()?;
    thread.levels.try_reserve(1).ok()?;

    let before = attached(py);
    // SAFETY: `before` is attached; the usual state is this thread's own; and the interpreter
    // is alive, says the caller.
    let (state, way) = unsafe {
        if !before.is_null() && belongs(py, before, record) {
            (before, Way::Reused)
        } else if let Some(usual) = usual_state(py, before, record) {
            py.PyEval_RestoreThread(usual);
            (usual, Way::Reattached)
        } else {
            let state = py.PyThreadState_New(record.interpreter());
            if state.is_null() {
                return None;
            }
            if !before.is_null() {
                // Not PyThreadState_Swap: interpreters may have a GIL each.
                py.PyEval_SaveThread();
            }
            let slot = GilstateSlot::replace(py, state);
            py.PyEval_RestoreThread(state);
            (state, Way::Created { outer: before, slot })
        }
    };

    let thread = this_thread()?;
    thread.serial = thread.serial.wrapping_add(1);
    let level = Level {
        record,
        state,
        way,
        hold,
        dropped: Dropped::default(),
        serial: thread.serial,
        receipt,
    };
    let token = level.token();
    thread.levels.push(level);
    Some(token)
}

/// # Safety
/// `state` is alive.
unsafe fn belongs(py: &Api, state: *mut PyThreadState, record: &'static Record) -> bool {
    // SAFETY: alive, says the caller.
    unsafe { py.PyThreadState_GetInterpreter(state) == record.interpreter() }
}

/// The thread state that this thread used last, if nothing is attached and it fits.
///
/// # Safety
/// CPython's own: a thread's last state is not deleted behind its back.
unsafe fn usual_state(
    py: &Api,
    attached: *mut PyThreadState,
    record: &'static Record,
) -> Option<*mut PyThreadState> {
    if !attached.is_null() {
        return None;
    }
    // SAFETY: reads thread-local storage; and `PyGILState_Ensure` relies on the same.
    unsafe {
        let usual = py.PyGILState_GetThisThreadState();
        (!usual.is_null() && belongs(py, usual, record)).then_some(usual)
    }
}

impl Level {
    /// Not NULL, and not the same for two levels of a thread, nor (as a rule) of two threads.
    fn token(&self) -> usize {
        let thread = THREAD.get() as usize;
        thread << 16 | usize::from(self.serial)
    }
}

/// Undoes the innermost Ensure of this thread. `token`: what it returned, if its caller took one.
pub(crate) fn release(py: &'static Api, function: &str, token: usize) {
    let Some((state, expected, creates)) = levels().last().map(|level| {
        let expected = (level.receipt == Receipt::Token).then(|| level.token());
        (level.state, expected, matches!(level.way, Way::Created { .. }))
    }) else {
        python::fatal(
            function,
            "there is no Ensure to release in this thread; \
             each successful Ensure is released once, in its own thread",
        );
    };
    if expected.is_some_and(|expected| expected != token) {
        python::fatal(
            function,
            "the token is not that of this thread's most recent Ensure; \
             Ensures are released in reverse order, in their own thread",
        );
    }
    if attached(py) != state {
        python::fatal(
            function,
            "the thread state that the matching Ensure attached is not attached; \
             attach it again before the release",
        );
    }
    if creates {
        // Runs destructors, which may use the library: the level is still there for them.
        // SAFETY: attached, and made by the Ensure.
        unsafe { py.PyThreadState_Clear(state) };
    }
    let Some(level) = this_thread().and_then(|thread| thread.levels.pop()) else {
        return;
    };
    let mut outer = null_mut();
    // SAFETY: the state is attached to this thread, and ours to detach or delete as `way` says.
    unsafe {
        match level.way {
            Way::Reused => daemon::restore(py, level.record, level.dropped),
            Way::Reattached => {
                daemon::restore(py, level.record, level.dropped);
                py.PyEval_SaveThread();
            }
            Way::Created { outer: before, slot } => {
                py.PyThreadState_DeleteCurrent();
                if let Some(slot) = slot {
                    slot.restore();
                }
                outer = before;
            }
        }
    }
    // Only now: the interpreter may be gone the moment it is not held any more.
    if level.hold.is_some_and(|hold| hold.give_back().is_err()) {
        python::fatal(function, "a guard was closed more often than it was taken");
    }
    if !outer.is_null() {
        // SAFETY: it was attached to this thread before the Ensure. If its interpreter
        // finalizes, the thread sleeps, as in any return to it.
        unsafe { py.PyEval_RestoreThread(outer) };
    }
}
