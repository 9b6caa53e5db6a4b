//! Slips: with `PEP788_TRACE=1`, each guard that is out has notes on who took it and where.
//!
//! A guard is only a count, so guards cannot be told apart. With tracing on, each guard gets a *slip*: a block of
//! memory with notes on who took the guard. Its handle then has the slip's address in place of the record's
//! (`capi/handle.rs`). So an exit that waits can list the guards, and a guard that is closed twice is recognized.
//! If there is no memory at some point, the guard has no slip.
//!
//! With tracing off, all of this costs one branch where a guard is taken, in [`is_off`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ffi::c_ulong;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::gate::record::{Record, RECORD_ALIGN};
use crate::support::clock::Instant;
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
    /// The hold that an Ensure, or `SetDaemon(0)`, keeps by itself.
    Hold,
}

/// Returns whether tracing is off, as it usually is.
#[inline]
pub(crate) fn is_off() -> bool {
    /// Whether tracing is known to be off. Relaxed: a thread that does not see this yet asks the settings.
    static OFF: AtomicBool = AtomicBool::new(false);

    #[cold]
    fn ask() -> bool {
        let off = !settings::get().trace;
        OFF.store(off, Ordering::Relaxed);
        off
    }
    OFF.load(Ordering::Relaxed) || ask()
}

/// The slip of one guard that was taken. Slips are never freed. They are only used again, and they count their
/// lives. So reading a slip through a stale handle is defined, and its life tells that the handle is stale.
#[repr(C, align(1024))]
pub(crate) struct Slip {
    /// [`STAMP`] and the life, which is odd while the guard is out. This is where a record has its stamp.
    stamp: AtomicUsize,
    /// Zeros, where a record has its handles. No handle is zero, so none is found here.
    _no_handles: [AtomicUsize; 2],
    /// The record's address.
    record: AtomicUsize,
    /// The life of the record: which of its interpreters the guard is of.
    record_life: AtomicUsize,
    /// The process that took the guard.
    generation: AtomicUsize,
    /// The notes. They are kept after the guard is closed, for a report if it is closed again.
    notes: Mutex<Option<Notes>>,
}

const LIFE: usize = 0xffff;
const STAMP: usize = (0x736c_6970_0000_0000_u64 >> (u64::BITS - usize::BITS)) as usize & !LIFE;

const _: () = assert!(align_of::<Slip>() == RECORD_ALIGN);

/// How many slips rest before one of them is used again.
const RESTING: usize = 256;

struct Pool {
    all: Vec<&'static Slip>,
    /// The slips whose guards are closed, the latest last.
    resting: VecDeque<&'static Slip>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { all: Vec::new(), resting: VecDeque::new() });

impl Slip {
    /// Returns a slip for a guard that was taken a moment ago, or `None` if there is no memory.
    pub(crate) fn fill_in(record: &'static Record, notes: Notes) -> Option<&'static Slip> {
        let slip = lock(&POOL).claim()?;
        *lock(&slip.notes) = Some(notes);
        // Relaxed: the stamp passes these values on to a thread that looks at the slip.
        slip.record.store(core::ptr::from_ref(record) as usize, Ordering::Relaxed);
        slip.record_life.store(record.life(), Ordering::Relaxed);
        slip.generation.store(generation(), Ordering::Relaxed);
        // No other thread changes the stamp of a slip that is not out. Release: it passes on the values above.
        // Pairs with `life`.
        slip.stamp.store(STAMP | ((slip.life() + 1) & LIFE), Ordering::Release);
        Some(slip)
    }

    /// Returns the slip at `address`, if there is one.
    ///
    /// # Safety
    /// `address` is readable and aligned for a slip.
    pub(crate) unsafe fn at(address: usize) -> Option<&'static Slip> {
        let slip = address as *const Slip;
        // SAFETY: the address is readable, by this function's contract. Memory that is a slip always stays one.
        unsafe {
            // Relaxed: the upper half of the stamp never changes.
            let stamp = (*core::ptr::addr_of!((*slip).stamp)).load(Ordering::Relaxed);
            (stamp & !LIFE == STAMP).then(|| &*slip)
        }
    }

    pub(crate) fn life(&self) -> usize {
        // Acquire: pairs with the store in `fill_in`.
        self.stamp.load(Ordering::Acquire) & LIFE
    }

    pub(crate) fn record(&self) -> &'static Record {
        // SAFETY: this is a record's address since the slip was filled in, and records are never freed.
        unsafe { &*(self.record.load(Ordering::Relaxed) as *const Record) }
    }

    /// Returns whether the guard's interpreter is the one that has the record now.
    pub(crate) fn is_of_living(&self) -> bool {
        self.record_life.load(Ordering::Relaxed) == self.record().life()
    }

    /// Returns whether that is so, and the guard is of this process too.
    pub(crate) fn is_valid(&self) -> bool {
        self.generation.load(Ordering::Relaxed) == generation() && self.is_of_living()
    }

    /// Notes that the guard of that life is closed. Returns `false` if it was closed before.
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

    /// Returns the notes of the slip's latest life.
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
        // `close` pushes to `resting`, where nothing may fail.
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

/// Returns the slips of the guards of `record` that are out.
pub(crate) fn of_record(record: &'static Record) -> Vec<&'static Slip> {
    let mut slips = Vec::new();
    {
        let pool = lock(&POOL);
        if slips.try_reserve_exact(pool.all.len()).is_ok() {
            slips.extend_from_slice(&pool.all);
        }
    }
    slips.retain(|slip: &&Slip| {
        slip.life() % 2 == 1 && core::ptr::eq(slip.record(), record) && slip.is_of_living()
    });
    slips
}

/// The lock of the slips, to be held across a fork.
pub(crate) struct Slips(MutexGuard<'static, Pool>);

pub(crate) fn hold_slips() -> Slips {
    Slips(lock(&POOL))
}

impl Slips {
    /// Forgets the slips, in a forked child. They are of the parent's guards. Their memory stays as it is, because
    /// handles lead to it.
    pub(crate) fn forget_parent(&mut self) {
        self.0.all.clear();
        self.0.resting.clear();
    }
}

/// How many functions of a stack are noted. They include those of this library and of the interpreter.
pub(crate) const DEPTH: usize = 40;

/// What `trace/note.rs` notes of a guard. It is plain data, so it takes no memory besides the slip.
#[derive(Clone, Copy)]
pub(crate) struct Notes {
    pub(crate) what: What,
    pub(crate) when: Instant,
    pub(crate) thread: ShortText<16>,
    pub(crate) thread_id: u64,
    /// The thread's name in `threading`.
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
