//! What others see of a thread that calls `PyGILState_Ensure`: whether it is inside, at the door, or on its way.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::gate::record::Record;
use crate::gate::registry::main;
use crate::support::clock::coarse_clock;
use crate::support::short_text::ShortText;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::system::names::{this_id, thread_name};

/// A hold on the main interpreter, in the thread's tally, that one Ensure took and nothing else has been done to: the life of
/// the record, and the calls counted in the thread state with that Ensure. Otherwise `FREE` or `BARRED`. Only the thread
/// writes it.
pub(super) struct Quick(AtomicU64);

/// The thread may take such a hold: it has no other hold, and is among [`THREADS`].
const FREE: u64 = 0;
/// It may not. No calls are counted in this.
const BARRED: u64 = 1 << 63;

// Relaxed: for the thread itself, and for what is told to people.
impl Quick {
    #[inline(always)]
    pub(super) fn set(&self, life: usize, counted: c_int) {
        self.0.store((life as u64) << 32 | u64::from(counted as u32), Ordering::Relaxed);
    }

    /// There is none, and the thread may take one again.
    #[inline(always)]
    pub(super) fn free(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }

    /// There is none, and the thread may take none.
    fn bar(&self) {
        self.0.store(BARRED, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn is_free(&self) -> bool {
        self.0.load(Ordering::Relaxed) == FREE
    }

    #[inline(always)]
    pub(super) fn is_there(&self) -> bool {
        self.counted() != 0
    }

    #[inline(always)]
    pub(super) fn life(&self) -> usize {
        (self.0.load(Ordering::Relaxed) >> 32) as usize
    }

    /// 0: there is none.
    #[inline(always)]
    pub(super) fn counted(&self) -> c_int {
        self.0.load(Ordering::Relaxed) as c_int
    }
}

/// What the report of an exit knows of a thread. Only the thread writes it, and others read it under
/// the lock of [`THREADS`].
pub(crate) struct Seen {
    /// The commonest hold, in fewer instructions.
    pub(super) quick: Quick,
    /// The interpreter that it holds otherwise.
    holds: AtomicPtr<Record>,
    /// Its number, once it is among them.
    id: AtomicU64,
    /// Its `pthread_t`.
    thread: AtomicUsize,
    /// After so many more are given back, the time is noted.
    until_noted: AtomicU64,
    /// When it last gave one back, by `coarse_clock`, and when before that; 0: never. Of those who do it often, not every time.
    last: AtomicU64,
    before: AtomicU64,
    /// Whether it is at the door, or was told that it is too late.
    knocks: AtomicBool,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen {
            quick: Quick(AtomicU64::new(BARRED)),
            holds: AtomicPtr::new(null_mut()),
            id: AtomicU64::new(0),
            thread: AtomicUsize::new(0),
            until_noted: AtomicU64::new(1),
            last: AtomicU64::new(0),
            before: AtomicU64::new(0),
            knocks: AtomicBool::new(false),
        }
    }

    /// It comes to the door, or goes on from there.
    pub(crate) fn set_knocks(&self, knocks: bool) {
        self.knocks.store(knocks, Ordering::Relaxed);
    }

    /// The thread ends.
    pub(super) fn delist(&self) {
        if self.is_known() {
            threads().retain(|other| !std::ptr::eq(*other, self));
        }
    }

    /// From now on the thread has this hold, or none, and not a quick one.
    // Relaxed, here and below: for what is told to people.
    #[inline]
    pub(super) fn holds(&self, record: Option<&'static Record>) {
        if record.is_none() && self.is_known() {
            self.quick.free();
        } else {
            self.quick.bar();
        }
        let record = record.map_or(null_mut(), |record| std::ptr::from_ref(record).cast_mut());
        self.holds.store(record, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn gives_back(&self) {
        let left = self.until_noted.load(Ordering::Relaxed) - 1;
        self.until_noted.store(left, Ordering::Relaxed);
        if left == 0 {
            self.note_time();
        }
    }

    /// The interpreter that it holds. A record is never freed.
    fn held(&self) -> Option<&'static Record> {
        if self.quick.is_there() {
            return Some(main());
        }
        // SAFETY: NULL or a record.
        unsafe { self.holds.load(Ordering::Relaxed).as_ref() }
    }

    /// A look at the clock costs some nanoseconds. A thread that calls several times in one step of the clock takes it less often.
    #[inline(never)]
    fn note_time(&self) {
        const OF_MANY: u64 = 16;
        let (last, now) = (self.last.load(Ordering::Relaxed), coarse_clock());
        self.before.store(last, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        self.until_noted.store(if last == now { OF_MANY } else { 1 }, Ordering::Relaxed);
    }

    fn note_id(&self) {
        self.id.store(this_id(), Ordering::Relaxed);
        // SAFETY: no preconditions.
        self.thread.store(unsafe { libc::pthread_self() } as usize, Ordering::Relaxed);
    }

    /// Whether it holds an interpreter: where the exit goes on, it is left behind inside.
    fn is_inside(&self) -> bool {
        self.held().is_some()
    }

    pub(super) fn is_known(&self) -> bool {
        self.id.load(Ordering::Relaxed) != 0
    }

    /// Out of memory it will not be named.
    #[cold]
    pub(super) fn enlist(&'static self) {
        let mut threads = threads();
        if threads.try_reserve(1).is_ok() {
            threads.push(self);
            self.note_id();
        }
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

/// In a forked child: the thread that forked is the only one. `own` is its part.
pub(crate) fn forget_parent(all: &mut Vec<&'static Seen>, own: Option<&'static Seen>) {
    if let Some(own) = own {
        // It was in the tally, which is empty now.
        if own.quick.is_there() {
            own.quick.free();
        }
    }
    all.retain(|other| own.is_some_and(|own| std::ptr::eq(*other, own)));
    if let Some(own) = own.filter(|own| own.is_known()) {
        own.note_id();
        // Its hold is the parent's, and nobody is told of it. The thread still has to give it back: it stays barred.
        own.holds.store(null_mut(), Ordering::Relaxed);
    }
}

/// The threads that hold one of these interpreters: their names and numbers.
pub(crate) fn inside(covers: impl Fn(&'static Record) -> bool) -> Vec<(ShortText<16>, u64)> {
    let threads = threads();
    let mut found = Vec::new();
    for thread in threads.iter() {
        if thread.held().is_some_and(&covers) && found.try_reserve(1).is_ok() {
            // It lives: at its end it takes itself from the list, for which it needs the lock.
            let name = thread_name(thread.thread.load(Ordering::Relaxed) as libc::pthread_t);
            found.push((name, thread.id.load(Ordering::Relaxed)));
        }
    }
    found
}

/// Whether the thread of that number is at the door, was told that it is too late, or is inside.
#[cfg(target_os = "linux")]
pub(crate) fn is_at_the_door(id: libc::pid_t) -> bool {
    threads().iter().any(|thread| {
        thread.id.load(Ordering::Relaxed) == id as u64
            && (thread.knocks.load(Ordering::Relaxed) || thread.is_inside())
    })
}

/// Whether a thread other than `own` has called twice since that time (of `coarse_clock`), and is neither at the door nor
/// inside: so it may be on its way.
pub(crate) fn is_one_on_its_way(own: Option<&Seen>, since: u64) -> bool {
    let own = own.map(std::ptr::from_ref::<Seen>);
    threads().iter().any(|thread| {
        Some(std::ptr::from_ref(*thread)) != own
            && !thread.knocks.load(Ordering::Relaxed)
            && thread.before.load(Ordering::Relaxed) > since
            && !thread.is_inside()
    })
}
