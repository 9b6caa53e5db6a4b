//! Tells whether a thread that calls `PyGILState_Ensure` is inside, at the door, or on its way there.

use alloc::vec::Vec;
use core::ffi::c_int;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::gate::record::Record;
use crate::gate::registry::main;
use crate::os::{coarse_clock, this_handle, this_id};
use crate::support::short_text::ShortText;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::system::names::thread_name;

/// A *quick* hold: it is on the main interpreter and in the thread's tally, one Ensure took it, and nothing else has
/// been done to it. The word consists of the life of the record, and of the number of calls counted in the thread state
/// with that Ensure. Without such a hold the word is `FREE` or `BARRED`. Only the thread itself writes the word.
pub(super) struct Quick(AtomicU64);

/// The thread may take a quick hold: it has no other hold, and is among [`THREADS`].
const FREE: u64 = 0;
/// The thread may not take a quick hold. The value counts no calls.
const BARRED: u64 = 1 << 63;

// Relaxed: these values are for the thread itself, and for what is told to people.
impl Quick {
    #[inline(always)]
    pub(super) fn set(&self, life: usize, counted: c_int) {
        self.0.store((life as u64) << 32 | u64::from(counted as u32), Ordering::Relaxed);
    }

    /// Notes that there is no quick hold, and that the thread may take one again.
    #[inline(always)]
    pub(super) fn free(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }

    /// Notes that there is no quick hold, and that the thread may not take one.
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

    /// Returns the number of calls counted with the Ensure. It is 0 if there is no quick hold.
    #[inline(always)]
    pub(super) fn counted(&self) -> c_int {
        self.0.load(Ordering::Relaxed) as c_int
    }
}

/// What the report of an exit knows of a thread. Only the thread itself writes it. Other threads read it under the
/// lock of [`THREADS`].
pub(crate) struct Seen {
    /// The most common hold, which takes fewer instructions.
    pub(super) quick: Quick,
    /// The interpreter that the thread holds, if not by a quick hold.
    holds: AtomicPtr<Record>,
    /// The thread's number, once it is among [`THREADS`]. It is 0 before that.
    id: AtomicU64,
    /// The thread's `pthread_t`.
    thread: AtomicUsize,
    /// When the thread has given back so many more holds, the time is noted.
    until_noted: AtomicU64,
    /// `last` is when the thread last gave a hold back, by `coarse_clock`, and `before` is when it did so before
    /// that. 0 means never. If a thread does this often, not every time is noted.
    last: AtomicU64,
    before: AtomicU64,
    /// Whether the thread is at the door, or was told that it is too late.
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

    /// Notes that the thread comes to the door, or goes on from there.
    pub(crate) fn set_knocks(&self, knocks: bool) {
        self.knocks.store(knocks, Ordering::Relaxed);
    }

    /// Takes the thread, which ends, off the list.
    pub(super) fn delist(&self) {
        if self.is_known() {
            threads().retain(|other| !core::ptr::eq(*other, self));
        }
    }

    /// Notes that the thread has this hold from now on, or none. It is not a quick one.
    // Relaxed, here and below: these values are for what is told to people.
    #[inline]
    pub(super) fn holds(&self, record: Option<&'static Record>) {
        if record.is_none() && self.is_known() {
            self.quick.free();
        } else {
            self.quick.bar();
        }
        let record = record.map_or(null_mut(), |record| core::ptr::from_ref(record).cast_mut());
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

    /// Returns the interpreter that the thread holds. The reference stays valid, because records are never freed.
    fn held(&self) -> Option<&'static Record> {
        if self.quick.is_there() {
            return Some(main());
        }
        // SAFETY: the pointer is NULL, or a record, which is never freed.
        unsafe { self.holds.load(Ordering::Relaxed).as_ref() }
    }

    /// Notes the time. A look at the clock costs some nanoseconds, so a thread that calls several times in one step
    /// of the clock looks less often.
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
        self.thread.store(this_handle(), Ordering::Relaxed);
    }

    /// Returns whether the thread holds an interpreter. If the exit goes on, it leaves such a thread behind.
    fn is_inside(&self) -> bool {
        self.held().is_some()
    }

    pub(super) fn is_known(&self) -> bool {
        self.id.load(Ordering::Relaxed) != 0
    }

    /// Puts the thread on the list. If there is no memory, reports will not name the thread.
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

/// Takes the lock of the list, for the time of a fork.
pub(crate) fn hold_threads() -> MutexGuard<'static, Vec<&'static Seen>> {
    threads()
}

/// Forgets the parent's threads, in a forked child. The thread that forked is the only one there, and `own` is its
/// entry.
pub(crate) fn forget_parent(all: &mut Vec<&'static Seen>, own: Option<&'static Seen>) {
    if let Some(own) = own {
        // The quick hold was in the tally, which is empty now.
        if own.quick.is_there() {
            own.quick.free();
        }
    }
    all.retain(|other| own.is_some_and(|own| core::ptr::eq(*other, own)));
    if let Some(own) = own.filter(|own| own.is_known()) {
        own.note_id();
        // The thread's hold is the parent's, and no report names it. The thread still has to give it back, so it
        // stays barred.
        own.holds.store(null_mut(), Ordering::Relaxed);
    }
}

/// Returns the names and numbers of the threads that hold one of these interpreters.
pub(crate) fn inside(covers: impl Fn(&'static Record) -> bool) -> Vec<(ShortText<16>, u64)> {
    let threads = threads();
    let mut found = Vec::new();
    for thread in threads.iter() {
        if thread.held().is_some_and(&covers) && found.try_reserve(1).is_ok() {
            let handle = thread.thread.load(Ordering::Relaxed);
            // SAFETY: the thread is alive. At its end it takes itself off the list, and it needs the lock for that.
            let name = unsafe { thread_name(handle) };
            found.push((name, thread.id.load(Ordering::Relaxed)));
        }
    }
    found
}

/// Returns whether the thread of that number is at the door, was told that it is too late, or is inside.
pub(crate) fn is_at_the_door(id: u64) -> bool {
    threads().iter().any(|thread| {
        thread.id.load(Ordering::Relaxed) == id
            && (thread.knocks.load(Ordering::Relaxed) || thread.is_inside())
    })
}

/// Returns whether a thread other than `own` has called twice since that time (of `coarse_clock`), and is neither
/// at the door nor inside. Such a thread may be on its way to the door.
pub(crate) fn is_one_on_its_way(own: Option<&Seen>, since: u64) -> bool {
    let own = own.map(core::ptr::from_ref::<Seen>);
    threads().iter().any(|thread| {
        Some(core::ptr::from_ref(*thread)) != own
            && !thread.knocks.load(Ordering::Relaxed)
            && thread.before.load(Ordering::Relaxed) > since
            && !thread.is_inside()
    })
}
