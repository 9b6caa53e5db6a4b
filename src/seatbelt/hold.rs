//! A thread's hold on an interpreter while it is inside `PyGILState_Ensure`, and the threads that have one.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::alternatives::Choice;
#[cfg(target_os = "linux")]
use super::tasks;
use super::wait::CLOSED;
use crate::gate::Claim;
use crate::interpreter::{self, clock, Record, LOBBY};
use crate::python::{Api, PyThreadState};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::thread::Thread;
use crate::trace::{self, Text};
use crate::{attach, fork};

/// Keeps an interpreter from finalizing, for a while: see [`super::Wait`].
#[derive(Clone, Copy)]
struct Hold {
    record: &'static Record,
    process: usize,
    life: usize,
    until: Until,
}

/// What ends a thread's hold.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Until {
    /// As many detaching Releases as there are Ensures that attached. `alone`: there was no Python code under
    /// the first of them.
    Released { ensures: usize, alone: bool },
    /// The deletion of the thread state of a scope.
    Deleted(*mut PyThreadState),
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

/// What a thread has to do with `PyGILState`.
pub(crate) struct Legacy {
    hold: Cell<Option<Hold>>,
    /// The record, and its life, whose exit this thread conducts.
    finalizes: Cell<Option<(&'static Record, usize)>>,
    /// The thread state that an Ensure made for it.
    made: Cell<*mut PyThreadState>,
    /// Whether that outlived the call, as another counted a call in it.
    is_kept: Cell<bool>,
    /// Where it is to be attached while it has no thread state.
    pub(super) chosen: Choice,
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
    /// When it last gave one back, by `clock`, and when before that; 0: never.
    last: AtomicU64,
    before: AtomicU64,
    /// Whether it is at the door, or was told that it is too late.
    knocks: AtomicBool,
}

impl Seen {
    // Relaxed, here and below: for what is told to people.
    fn holds(&self, record: Option<&'static Record>) {
        if record.is_none() {
            self.before.store(self.last.load(Ordering::Relaxed), Ordering::Relaxed);
            self.last.store(clock(), Ordering::Relaxed);
        }
        let record = record.map_or(null_mut(), |record| std::ptr::from_ref(record).cast_mut());
        self.holds.store(record, Ordering::Relaxed);
    }

    fn note_id(&self) {
        self.id.store(trace::thread_id(), Ordering::Relaxed);
        // SAFETY: no preconditions.
        self.thread.store(unsafe { libc::pthread_self() } as usize, Ordering::Relaxed);
    }

    /// Whether it holds an interpreter: where the exit goes on, it is left behind inside.
    fn is_inside(&self) -> bool {
        !self.holds.load(Ordering::Relaxed).is_null()
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
            hold: Cell::new(None),
            finalizes: Cell::new(None),
            made: Cell::new(null_mut()),
            is_kept: Cell::new(false),
            chosen: Choice::new(None),
            seen: Seen {
                holds: AtomicPtr::new(null_mut()),
                id: AtomicU64::new(0),
                thread: AtomicUsize::new(0),
                last: AtomicU64::new(0),
                before: AtomicU64::new(0),
                knocks: AtomicBool::new(false),
            },
        }
    }

    /// Whether the thread is inside a call that holds its interpreter.
    pub(super) fn is_holding(&self) -> bool {
        self.hold.get().is_some_and(|hold| hold.is_valid())
    }

    /// From now on it is until that.
    pub(super) fn keep(&self, until: Until) {
        self.hold.set(self.hold.get().map(|hold| Hold { until, ..hold }));
    }

    /// An Ensure attached a thread state that it found, or made.
    pub(super) fn note_ensure(&self) {
        if let Some(Until::Released { ensures, alone }) = self.hold.get().map(|hold| hold.until) {
            self.keep(Until::Released { ensures: ensures + 1, alone });
        }
    }

    /// An Ensure made a thread state.
    pub(super) fn note_making(&self, state: *mut PyThreadState) {
        self.made.set(state);
        self.is_kept.set(false);
    }

    /// Whether the thread state that a Release is about to detach goes, though a call is counted in it still: who keeps
    /// it attaches it without a word (cffi up to 2.0), so that the thread could not be kept out when it is too late.
    pub(super) fn goes_nevertheless(&self, state: *mut PyThreadState, over_python: bool) -> bool {
        /// Relaxed: nothing else is told by it.
        static ATTACH_KEPT_ONES: AtomicBool = AtomicBool::new(false);
        if self.made.get() != state || over_python {
            return false;
        }
        match self.hold.get().map(|hold| hold.until) {
            Some(Until::Released { ensures: 0 | 1, .. }) => self.is_kept.set(true),
            None if self.is_kept.get() => ATTACH_KEPT_ONES.store(true, Ordering::Relaxed),
            _ => return false,
        }
        ATTACH_KEPT_ONES.load(Ordering::Relaxed)
    }

    /// A Release detached the thread. `over_python`: from a thread state with Python code.
    pub(super) fn note_release(&self, over_python: bool) {
        match self.hold.get().map(|hold| hold.until) {
            Some(Until::Released { ensures, alone }) if ensures > 1 => {
                self.keep(Until::Released { ensures: ensures - 1, alone });
            }
            // The Release of something inside that attached by other means, as cffi does.
            Some(Until::Released { alone: true, .. }) if over_python => {}
            Some(Until::Released { .. }) => self.give_back(),
            Some(Until::Deleted(_)) | None => {}
        }
    }

    /// The thread detached a thread state and deleted it.
    pub(super) fn note_deletion(&self, state: *mut PyThreadState) {
        if self.made.get() == state {
            self.note_making(null_mut());
        }
        if self.hold.get().is_some_and(|hold| hold.until == Until::Deleted(state)) {
            self.give_back();
        }
    }

    /// When nothing is attached: the interpreter may be gone the moment it is not held any more.
    pub(super) fn give_back(&self) {
        if let Some(hold) = self.hold.take() {
            self.seen.holds(None);
            hold.give_back();
        }
    }

    /// The thread ends, and comes to no Release any more.
    pub(crate) fn forget(&self) {
        self.give_back();
        if self.seen.is_known() {
            threads().retain(|other| !std::ptr::eq(*other, &self.seen));
        }
    }

    /// Whether this thread conducts the exit of an interpreter, or of the main one.
    pub(super) fn finalizes(&self, record: &'static Record) -> bool {
        self.finalizes.get().is_some_and(|(own, life)| {
            own.life() == life && (own.is_main() || std::ptr::eq(own, record))
        })
    }
}

/// Takes a hold for the thread, or waits for the outcome. `is_known`: the thread has a thread state. `false`: it is too
/// late. Without a hold it may come in if it conducts the exit, or if CPython is to decide.
pub(super) fn enter(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    is_known: bool,
) -> bool {
    let seen = &thread.legacy.seen;
    seen.knocks.store(true, Ordering::Relaxed);
    let may_come_in = knock(py, thread, record, is_known);
    if may_come_in {
        seen.knocks.store(false, Ordering::Relaxed);
    }
    may_come_in
}

fn knock(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    is_known: bool,
) -> bool {
    let main = interpreter::main();
    if !main.is_installed() {
        interpreter::prepare_main(py);
    }
    // SAFETY: needs no thread state.
    let is_initialized = || unsafe { py.Py_IsInitialized() } != 0;
    if main.gate.is_closed() || !is_initialized() {
        // Finalization, or there is no Python.
        return thread.legacy.finalizes(main) || !main.gate.is_closed() && is_known;
    }
    // In a call of its own that the exit waits for: if it were kept out, that would be for ever.
    let is_holder = attach::is_inside(record);
    let begun = Instant::now();
    loop {
        let life = record.life();
        // A thread that has a thread state may be one that `threading` joins. So it is kept out no longer than
        // it takes the others to leave.
        let may_insist = is_holder || is_known && begun.elapsed() > 2 * CLOSED;
        let claim = if may_insist { Claim::Holder } else { Claim::View };
        if record.legacy.enter(claim, &LOBBY) {
            if record.life() != life {
                // Another run of Python has begun, or another interpreter has the record.
                let _ = record.legacy.leave(&LOBBY);
                continue;
            }
            if !main.is_installed() && !is_initialized() {
                // Finalization, which nobody could be told of: this is the first call in the process.
                let _ = record.legacy.leave(&LOBBY);
                return thread.legacy.finalizes(main) || is_known;
            }
            let until = Until::Released { ensures: 0, alone: false };
            let process = fork::generation();
            thread.legacy.hold.set(Some(Hold { record, process, life, until }));
            let seen = &thread.legacy.seen;
            if !seen.is_known() {
                seen.enlist();
            }
            seen.holds(Some(record));
            return true;
        }
        if record.legacy.is_closed() {
            return thread.legacy.finalizes(record);
        }
        // The exit waits for others. They may come to need this one: then it will be let in.
        std::thread::sleep(KNOCK_AGAIN);
    }
}

const KNOCK_AGAIN: Duration = Duration::from_millis(5);

/// The exit of `record` begins, in this thread: it will not come to the Releases of its own calls
/// before the end of it, and is let in to the end.
pub(crate) fn give_up_own_holds(covers: impl Fn(&'static Record) -> bool) {
    let Some(thread) = Thread::known() else { return };
    if thread.legacy.hold.get().is_some_and(|hold| covers(hold.record)) {
        thread.legacy.give_back();
    }
}

/// From now on this thread conducts the exit of `record`.
pub(crate) fn note_finalizer(record: &'static Record) {
    if let Some(thread) = Thread::this() {
        thread.legacy.finalizes.set(Some((record, record.life())));
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

/// Whether a thread runs, or is about to, that is not at the door, nor Python's own; for as long as there is time.
fn one_runs(pythons: &[u64], over: Instant) -> bool {
    #[cfg(target_os = "linux")]
    {
        let is_at_the_door = |id: libc::pid_t| {
            id == tasks::this_thread()
                || pythons.contains(&(id as u64))
                || threads().iter().any(|thread| {
                    thread.id.load(Ordering::Relaxed) == id as u64
                        && (thread.knocks.load(Ordering::Relaxed) || thread.is_inside())
                })
        };
        let mut tasks = tasks::Tasks::open().into_iter().flatten();
        tasks.any(|id| Instant::now() < over && !is_at_the_door(id) && tasks::runs(id))
    }
    // Nothing tells.
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pythons, over);
        false
    }
}

/// The door has closed. A thread that calls in a loop may be on its way through a callback object, which the exit is
/// about to free: until it is at the door, nothing can end it. So all that run are given time to come there, also
/// those that never called: they may have only begun. One that sleeps is given less, if it has called
/// twice lately: programs whose threads call every few milliseconds would wait for it at every exit. Python's own threads
/// (`pythons`) go through no callback object. With nothing attached.
pub(crate) fn linger(pythons: &[u64]) {
    const LATELY: u64 = 100;
    const RUNNING: Duration = Duration::from_millis(100);
    const SLEEPING: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    let closed = clock();
    let own = Thread::known().map(|thread| std::ptr::from_ref(&thread.legacy.seen));
    let is_on_its_way = |thread: &&Seen| {
        Some(std::ptr::from_ref(*thread)) != own
            && !thread.knocks.load(Ordering::Relaxed)
            && thread.before.load(Ordering::Relaxed) + LATELY > closed
            && !thread.is_inside()
    };
    let one_sleeps = || begun.elapsed() < SLEEPING && threads().iter().any(is_on_its_way);
    while one_sleeps() || begun.elapsed() < RUNNING && one_runs(pythons, begun + RUNNING) {
        std::thread::sleep(Duration::from_micros(200));
    }
}
