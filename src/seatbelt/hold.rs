//! A thread's hold on an interpreter while it is inside `PyGILState_Ensure`, and the threads that have one.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::alternatives::Choice;
#[cfg(target_os = "linux")]
use super::tasks;
use super::wait::CLOSED;
use crate::gate::Claim;
use crate::interpreter::{self, coarse_clock, Record, LOBBY};
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
    /// Whether it is in the thread's tally, instead of the gate.
    is_tallied: bool,
    until: Until,
}

/// What ends a thread's hold.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Until {
    /// As many detaching Releases as there are Ensures that attached. `counted`: the calls counted in the thread state with
    /// the first of them. `alone`: there was no Python code under that.
    Released { ensures: usize, counted: c_int, alone: bool },
    /// The deletion of the thread state of a scope.
    Deleted(*mut PyThreadState),
}

impl Hold {
    fn is_valid(&self) -> bool {
        self.process == fork::generation() && self.life == self.record.life()
    }

    fn give_back(self) {
        if self.is_tallied {
            // Whatever became of the interpreter, it is in the tally. But not in a child's.
            if let Some(thread) = Thread::known().filter(|_| self.process == fork::generation()) {
                self.record.legacy.leave_by(&thread.tally, &LOBBY);
            }
        } else if self.is_valid() {
            let _ = self.record.legacy.leave(&LOBBY);
        }
    }
}

/// A hold on the main interpreter, in the thread's tally, that one Ensure took and nothing else has been done to: the life of
/// the record, and the calls counted in the thread state with that Ensure; or zeros. Only the thread writes it.
struct Quick(AtomicU64);

// Relaxed: for the thread itself, and for what is told to people.
impl Quick {
    #[inline(always)]
    fn set(&self, life: usize, counted: c_int) {
        self.0.store((life as u64) << 32 | u64::from(counted as u32), Ordering::Relaxed);
    }

    #[inline(always)]
    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    #[inline(always)]
    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    #[inline(always)]
    fn life(&self) -> usize {
        (self.0.load(Ordering::Relaxed) >> 32) as usize
    }

    /// 0: there is none.
    #[inline(always)]
    fn counted(&self) -> c_int {
        self.0.load(Ordering::Relaxed) as c_int
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
    /// The commonest hold, in fewer instructions.
    quick: Quick,
    /// The interpreter that it holds otherwise.
    holds: AtomicPtr<Record>,
    /// Its number, once it is among them.
    id: AtomicU64,
    /// Its `pthread_t`.
    thread: AtomicUsize,
    /// How often it gave one back.
    times: AtomicU64,
    /// When it last did, by `coarse_clock`, and when before that; 0: never. Of those who do it often, every fourth time.
    last: AtomicU64,
    before: AtomicU64,
    /// Whether it is at the door, or was told that it is too late.
    knocks: AtomicBool,
}

impl Seen {
    // Relaxed, here and below: for what is told to people.
    #[inline]
    fn holds(&self, record: Option<&'static Record>) {
        let record = record.map_or(null_mut(), |record| std::ptr::from_ref(record).cast_mut());
        self.holds.store(record, Ordering::Relaxed);
    }

    #[inline]
    fn gives_back(&self) {
        let times = self.times.load(Ordering::Relaxed) + 1;
        self.times.store(times, Ordering::Relaxed);
        if times % 4 == 0 || times < 8 {
            self.note_time();
        }
    }

    /// The interpreter that it holds. A record is one for ever.
    fn held(&self) -> Option<&'static Record> {
        if self.quick.is_there() {
            return Some(interpreter::main());
        }
        // SAFETY: NULL or a record.
        unsafe { self.holds.load(Ordering::Relaxed).as_ref() }
    }

    #[inline(never)]
    fn note_time(&self) {
        self.before.store(self.last.load(Ordering::Relaxed), Ordering::Relaxed);
        self.last.store(coarse_clock(), Ordering::Relaxed);
    }

    fn note_id(&self) {
        self.id.store(trace::thread_id(), Ordering::Relaxed);
        // SAFETY: no preconditions.
        self.thread.store(unsafe { libc::pthread_self() } as usize, Ordering::Relaxed);
    }

    /// Whether it holds an interpreter: where the exit goes on, it is left behind inside.
    fn is_inside(&self) -> bool {
        self.held().is_some()
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
                quick: Quick(AtomicU64::new(0)),
                holds: AtomicPtr::new(null_mut()),
                id: AtomicU64::new(0),
                thread: AtomicUsize::new(0),
                times: AtomicU64::new(0),
                last: AtomicU64::new(0),
                before: AtomicU64::new(0),
                knocks: AtomicBool::new(false),
            },
        }
    }

    /// The thread's hold, of whichever kind.
    fn hold(&self) -> Option<Hold> {
        let quick = &self.seen.quick;
        if !quick.is_there() {
            return self.hold.get();
        }
        let until = Until::Released { ensures: 1, counted: quick.counted(), alone: true };
        let (record, process) = (interpreter::main(), fork::generation());
        let hold = Hold { record, process, life: quick.life(), is_tallied: true, until };
        self.set_hold(Some(hold));
        Some(hold)
    }

    fn set_hold(&self, hold: Option<Hold>) {
        self.hold.set(hold);
        self.seen.holds(hold.map(|hold| hold.record));
        self.seen.quick.clear();
    }

    /// Takes a hold on the main interpreter for an Ensure of a thread that has none, where no exit has begun. `false`: not
    /// this way.
    #[inline(always)]
    pub(super) fn enter_quickly(&self, thread: &Thread) -> bool {
        let main = interpreter::main();
        // A hold of another life, or of a parent process, is still to be given back.
        !self.seen.quick.is_there()
            && self.hold.get().is_none()
            && self.seen.is_known()
            && main.is_installed()
            && main.enter_legacy_by(&thread.tally, &LOBBY)
    }

    /// Notes that hold. `counted`: the calls counted in the thread state with that Ensure.
    #[inline(always)]
    pub(super) fn note_quick(&self, counted: c_int) {
        self.seen.quick.set(interpreter::main().life(), counted);
    }

    /// Whether so many calls are counted since the Ensure that took such a hold.
    #[inline(always)]
    pub(super) fn is_quick(&self, counted: c_int) -> bool {
        counted != 0 && self.seen.quick.counted() == counted
    }

    /// Gives such a hold back.
    #[inline(always)]
    pub(super) fn leave_quickly(&self, thread: &Thread) {
        self.seen.quick.clear();
        self.seen.gives_back();
        interpreter::main().legacy.leave_by(&thread.tally, &LOBBY);
    }

    /// Whether an Ensure made this thread state.
    #[inline(always)]
    pub(super) fn has_made(&self, state: *mut PyThreadState) -> bool {
        self.made.get() == state
    }

    /// Whether the thread is inside a call that holds its interpreter.
    pub(super) fn is_holding(&self) -> bool {
        self.hold().is_some_and(|hold| hold.is_valid())
    }

    /// From now on it is until that.
    pub(super) fn keep(&self, until: Until) {
        self.set_hold(self.hold().map(|hold| Hold { until, ..hold }));
    }

    /// An Ensure attached a thread state that it found, or made, and counted itself in there.
    pub(super) fn note_ensure(&self, count: c_int) {
        if let Some(Until::Released { ensures, counted, alone }) =
            self.hold().map(|hold| hold.until)
        {
            let counted = if ensures == 0 { count } else { counted };
            self.keep(Until::Released { ensures: ensures + 1, counted, alone });
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
        match self.hold().map(|hold| hold.until) {
            Some(Until::Released { ensures: 0 | 1, .. }) => self.is_kept.set(true),
            None if self.is_kept.get() => ATTACH_KEPT_ONES.store(true, Ordering::Relaxed),
            _ => return false,
        }
        ATTACH_KEPT_ONES.load(Ordering::Relaxed)
    }

    /// A Release detached the thread. `over_python`: from a thread state with Python code.
    pub(super) fn note_release(&self, over_python: bool) {
        match self.hold().map(|hold| hold.until) {
            Some(Until::Released { ensures, counted, alone }) if ensures > 1 => {
                self.keep(Until::Released { ensures: ensures - 1, counted, alone });
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
        if self.hold().is_some_and(|hold| hold.until == Until::Deleted(state)) {
            self.give_back();
        }
    }

    /// When nothing is attached: the interpreter may be gone the moment it is not held any more.
    pub(super) fn give_back(&self) {
        if let Some(hold) = self.hold() {
            self.set_hold(None);
            self.seen.gives_back();
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
            // One from an earlier run of Python.
            thread.legacy.give_back();
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
            take(thread, record, life);
            return true;
        }
        if record.legacy.is_closed() {
            return thread.legacy.finalizes(record);
        }
        // The exit waits for others. They may come to need this one: then it will be let in.
        wait_outside();
    }
}

/// The threads that wait outside. Relaxed: nothing depends on the exact number.
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);

/// Waits before it knocks again: the longer, the more others wait. Thousands that woke every few milliseconds would
/// keep the processors from those that the exit waits for.
fn wait_outside() {
    const AT_LEAST: Duration = Duration::from_millis(5);
    const FOR_EACH: Duration = Duration::from_micros(50);
    let others = OUTSIDE.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(AT_LEAST.max(FOR_EACH.saturating_mul(others as u32)));
    OUTSIDE.fetch_sub(1, Ordering::Relaxed);
}

fn take(thread: &'static Thread, record: &'static Record, life: usize) {
    let until = Until::Released { ensures: 0, counted: 0, alone: false };
    let process = fork::generation();
    thread.legacy.set_hold(Some(Hold { record, process, life, is_tallied: false, until }));
    let seen = &thread.legacy.seen;
    if !seen.is_known() {
        seen.enlist();
    }
}

/// The exit of `record` begins, in this thread: it will not come to the Releases of its own calls
/// before the end of it, and is let in to the end.
pub(crate) fn give_up_own_holds(covers: impl Fn(&'static Record) -> bool) {
    let Some(thread) = Thread::known() else { return };
    if thread.legacy.hold().is_some_and(|hold| covers(hold.record)) {
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
    OUTSIDE.store(0, Ordering::Relaxed);
    let thread = Thread::known();
    if let Some(thread) = thread {
        // It was in the tally, which is empty now.
        thread.legacy.seen.quick.clear();
    }
    let own = thread.map(|thread| &thread.legacy.seen);
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
        if thread.held().is_some_and(&covers) && found.try_reserve(1).is_ok() {
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
    let closed = coarse_clock();
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
