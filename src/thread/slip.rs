//! `PEP788_TRACE=1`: the slip of each guard that is out.
//!
//! A guard is a count, so one cannot be told from another. With tracing on, each gets a *slip*: a
//! block of memory with notes on who took it, and its handle is the slip's address instead of the
//! record's (`capi/handle.rs`). So an exit that waits can list them, and one that is closed twice is
//! known. Whatever fails on the way, for want of memory, leaves a guard without a slip.
//!
//! With tracing off, all of this is the one branch of [`is_off`] where a guard is taken.

use std::collections::VecDeque;
use std::ffi::c_ulong;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::gate::record::{Record, RECORD_ALIGN};
use crate::support::memory::try_box;
use crate::support::settings;
use crate::support::short_text::ShortText;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::system::generation::generation;

/// What a slip is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Guard,
    StrongRef,
    /// What an Ensure, or `SetDaemon(0)`, keeps by itself.
    Hold,
}

/// Whether tracing is off, as it is as a rule.
#[inline]
pub(crate) fn is_off() -> bool {
    /// Known to be off. Relaxed: whoever does not see it yet asks the settings.
    static OFF: AtomicBool = AtomicBool::new(false);

    #[cold]
    fn ask() -> bool {
        let off = !settings::get().trace;
        OFF.store(off, Ordering::Relaxed);
        off
    }
    OFF.load(Ordering::Relaxed) || ask()
}

/// One guard that was taken. Slips are never freed, only used again, with a count of lives: reading
/// one through a stale handle is defined, and its life tells that the handle is stale.
#[repr(C, align(1024))]
pub(crate) struct Slip {
    /// [`STAMP`] and the life: odd while the guard is out. Where a record has its stamp.
    stamp: AtomicUsize,
    /// Where a record has its handles: no handle is zero.
    _no_handles: [AtomicUsize; 2],
    /// The record's address.
    record: AtomicUsize,
    /// Which of the interpreters that had the record.
    record_life: AtomicUsize,
    /// The process that took the guard.
    generation: AtomicUsize,
    /// Kept after the guard is closed, for somebody who closes it again.
    notes: Mutex<Option<Notes>>,
}

const STAMP: usize = 0x736c_6970_0000_0000_u64 as usize;
const LIFE: usize = 0xffff;

const _: () = assert!(align_of::<Slip>() == RECORD_ALIGN);

/// So many slips rest before one is used again.
const RESTING: usize = 256;

struct Pool {
    all: Vec<&'static Slip>,
    /// Closed, the latest last.
    resting: VecDeque<&'static Slip>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { all: Vec::new(), resting: VecDeque::new() });

impl Slip {
    /// One for a guard that was just taken. `None`: there is no memory.
    pub(crate) fn fill_in(record: &'static Record, notes: Notes) -> Option<&'static Slip> {
        let slip = lock(&POOL).claim()?;
        *lock(&slip.notes) = Some(notes);
        // Relaxed: the stamp brings them to who looks at the slip.
        slip.record.store(std::ptr::from_ref(record) as usize, Ordering::Relaxed);
        slip.record_life.store(record.life(), Ordering::Relaxed);
        slip.generation.store(generation(), Ordering::Relaxed);
        // Nobody else changes the stamp of a slip that is not out. Release: see above.
        slip.stamp.store(STAMP | ((slip.life() + 1) & LIFE), Ordering::Release);
        Some(slip)
    }

    /// The slip at `address`, if there is one.
    ///
    /// # Safety
    /// `address` is readable and aligned for a slip.
    pub(crate) unsafe fn at(address: usize) -> Option<&'static Slip> {
        let slip = address as *const Slip;
        // SAFETY: readable, says the caller. Where it is a slip, it always is one.
        unsafe {
            // Relaxed: the upper half never changes.
            let stamp = (*std::ptr::addr_of!((*slip).stamp)).load(Ordering::Relaxed);
            (stamp & !LIFE == STAMP).then(|| &*slip)
        }
    }

    pub(crate) fn life(&self) -> usize {
        // Acquire: pairs with the store in `fill_in`.
        self.stamp.load(Ordering::Acquire) & LIFE
    }

    pub(crate) fn record(&self) -> &'static Record {
        // SAFETY: a record's address since the slip was filled in, and records are never freed.
        unsafe { &*(self.record.load(Ordering::Relaxed) as *const Record) }
    }

    /// Whether its interpreter is the one that the record has now.
    pub(crate) fn is_of_living(&self) -> bool {
        self.record_life.load(Ordering::Relaxed) == self.record().life()
    }

    /// ... and the process too.
    pub(crate) fn is_valid(&self) -> bool {
        self.generation.load(Ordering::Relaxed) == generation() && self.is_of_living()
    }

    /// The guard of that life is closed. `false`: it was closed before.
    pub(crate) fn close(&'static self, life: usize) -> bool {
        // Relaxed: the notes have a lock of their own, and the guard's own count orders the rest.
        let closed = self
            .stamp
            .compare_exchange(
                STAMP | life,
                STAMP | ((life + 1) & LIFE),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok();
        if closed {
            lock(&POOL).resting.push_back(self);
        }
        closed
    }

    /// Of its latest life.
    pub(crate) fn notes(&self) -> Option<Notes> {
        *lock(&self.notes)
    }
}

impl Pool {
    fn claim(&mut self) -> Option<&'static Slip> {
        if self.resting.len() > RESTING {
            return self.resting.pop_front();
        }
        self.all.try_reserve(1).ok()?;
        // `close` pushes to it where nothing may fail.
        let all = self.all.len() + 1;
        self.resting.try_reserve(all - self.resting.len()).ok()?;
        let slip: &'static Slip = Box::leak(try_box(Slip {
            stamp: AtomicUsize::new(STAMP),
            _no_handles: [AtomicUsize::new(0), AtomicUsize::new(0)],
            record: AtomicUsize::new(0),
            record_life: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            notes: Mutex::new(None),
        })?);
        self.all.push(slip);
        Some(slip)
    }
}

/// The slips of the guards of `record` that are out.
pub(crate) fn of_record(record: &'static Record) -> Vec<&'static Slip> {
    let mut slips = Vec::new();
    {
        let pool = lock(&POOL);
        if slips.try_reserve_exact(pool.all.len()).is_ok() {
            slips.extend_from_slice(&pool.all);
        }
    }
    slips.retain(|slip: &&Slip| {
        slip.life() % 2 == 1 && std::ptr::eq(slip.record(), record) && slip.is_of_living()
    });
    slips
}

/// The lock to be held across a fork.
pub(crate) struct Slips(MutexGuard<'static, Pool>);

pub(crate) fn hold_slips() -> Slips {
    Slips(lock(&POOL))
}

impl Slips {
    /// In a forked child: the slips are of the parent's guards. They stay as they are, since
    /// handles lead to them.
    pub(crate) fn forget_parent(&mut self) {
        self.0.all.clear();
        self.0.resting.clear();
    }
}

/// So many functions are noted, those of this library and of the interpreter among them.
pub(crate) const DEPTH: usize = 40;

/// What is noted of a guard (`trace/note.rs` does so). Plain data, so that a slip is all the memory that it takes.
#[derive(Clone, Copy)]
pub(crate) struct Notes {
    pub(crate) what: What,
    pub(crate) when: Instant,
    pub(crate) thread: ShortText<16>,
    pub(crate) thread_id: u64,
    /// The name that `threading` knows the thread by.
    pub(crate) python_thread: Option<ShortText<48>>,
    pub(crate) python: Option<PythonPlace>,
    pub(crate) stack: [usize; DEPTH],
    pub(crate) depth: usize,
}

/// The innermost Python code of a thread.
#[derive(Clone, Copy)]
pub(crate) struct PythonPlace {
    pub(crate) function: ShortText<64>,
    pub(crate) file: ShortText<224>,
    pub(crate) line: c_ulong,
}
