//! The file in which a watched process notes what its threads do.
//!
//! `python -m pep788 watch` makes an empty file, and names it in `PEP788_WATCH`. The first process that has a Python
//! takes the file. The notes are in memory that is mapped from the file, so they are there whatever becomes of the
//! process. Only numbers and short texts are noted. `wheel/pep788/_watch.py` knows the layout too, and finds out what
//! the addresses mean when the process is gone.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicU8, Ordering};

use crate::os::{self, coarse_clock};
use crate::thread::thread::Thread;

/// The mark at the beginning of the file. The digit changes whenever the layout does.
pub(super) const MARK: u64 = u64::from_le_bytes(*b"pep788w1");

pub(super) const DEPTH: usize = 64;
/// How many threads have a place. The others are only counted.
pub(super) const THREADS: usize = 4096;
pub(super) const MODULES: usize = 1024;

/// A piece of text, cut off at the end.
#[repr(transparent)]
pub(super) struct Text<const N: usize>([AtomicU8; N]);

impl<const N: usize> Text<N> {
    // Relaxed: one thread writes a text, and the text is read when the process is gone.
    pub(super) fn set(&self, text: &[u8]) {
        for (index, place) in self.0.iter().enumerate() {
            place.store(text.get(index).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// The return addresses of a stack, innermost first.
#[repr(C)]
pub(super) struct Stack {
    pub(super) depth: AtomicU64,
    pub(super) addresses: [AtomicU64; DEPTH],
}

impl Stack {
    pub(super) fn set(&self, addresses: &[usize]) {
        // Relaxed, as for a text.
        for (place, address) in self.addresses.iter().zip(addresses) {
            place.store(*address as u64, Ordering::Relaxed);
        }
        self.depth.store(addresses.len() as u64, Ordering::Relaxed);
    }
}

/// Where a thread was at a moment: when a signal ended the process, or when somebody asked.
#[repr(C)]
pub(super) struct Stop {
    pub(super) signal: AtomicU64,
    pub(super) thread: AtomicU64,
    pub(super) when: AtomicU64,
    pub(super) stack: Stack,
}

/// A part of a file that is mapped as code.
#[repr(C)]
pub(super) struct Module {
    pub(super) begin: AtomicU64,
    pub(super) end: AtomicU64,
    /// Where the part begins in the file.
    pub(super) offset: AtomicU64,
    pub(super) path: Text<232>,
}

/// A function of Python code.
#[repr(C)]
pub(super) struct Function {
    pub(super) line: AtomicU64,
    /// When the library last had a function noted.
    pub(super) noted: AtomicU64,
    pub(super) name: Text<96>,
    pub(super) file: Text<152>,
}

/// What is noted of a thread. Only the thread itself writes it, but for what an exit notes. Times are in nanoseconds,
/// by the clock that never goes back. 0 means never.
#[repr(C)]
pub(crate) struct Slot {
    pub(super) id: AtomicU64,
    pub(super) flags: AtomicU64,
    /// How often the thread attached, by a function that is watched.
    pub(super) calls: AtomicU64,
    /// When it attached first, and last.
    pub(super) first: AtomicU64,
    pub(super) last: AtomicU64,
    /// How many such calls the thread is inside.
    pub(super) is_inside: AtomicU64,
    /// When the thread left the call that it was in when the exit began to wait.
    pub(super) left: AtomicU64,
    /// When the thread came too late.
    pub(super) late: AtomicU64,
    pub(super) name: Text<16>,
    /// The stack of the first call.
    pub(super) stack: Stack,
    pub(super) late_stack: Stack,
    /// The first and the last Python function that was noted.
    pub(super) functions: [Function; 2],
}

impl Slot {
    /// Sets one of the flags below.
    // Relaxed: the flags are for what is told to people.
    pub(super) fn set_flag(&self, flag: u64) {
        self.flags.fetch_or(flag, Ordering::Relaxed);
    }

    pub(super) fn has_flag(&self, flag: u64) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    pub(super) fn clear_flag(&self, flag: u64) {
        self.flags.fetch_and(!flag, Ordering::Relaxed);
    }
}

/// Python knew the thread before it attached here: `threading` started it, or it is the main thread.
pub(super) const OF_PYTHON: u64 = 1;
/// The thread was inside a call when the exit began to wait, or when the exit callbacks had run.
pub(super) const INSIDE_AT_EXIT: u64 = 2;
/// The thread's next Python function is to be noted.
pub(super) const ARMED: u64 = 4;
/// The thread attached by `PyEval_AcquireThread`, as pybind11's scopes do.
pub(super) const BY_SCOPE: u64 = 8;
/// What became of a thread that came too late: the library ended it, or CPython unwound its stack, or has it sleep
/// without end.
pub(super) const ENDED: u64 = 16;
pub(super) const UNWOUND: u64 = 32;
pub(super) const SLEEPS: u64 = 64;
/// The thread attached by the functions of PEP 788.
pub(super) const BY_PEP788: u64 = 128;

/// What `Phase` numbers.
pub(super) const PHASES: usize = 8;

#[repr(C)]
pub(super) struct File {
    pub(super) mark: AtomicU64,
    /// The sizes of the parts below, for the reader: of a module, how many of them; of a slot, how many of them.
    pub(super) sizes: [AtomicU64; 4],
    /// The process that took the file. 0: none has.
    pub(super) process: AtomicU32,
    /// The first two bytes of `PY_VERSION_HEX`.
    pub(super) python: AtomicU32,
    /// 1: the seatbelt is on.
    pub(super) is_protected: AtomicU32,
    /// The signal by which to ask the main thread for its stack. 0: none could be had.
    pub(super) look_signal: AtomicU32,
    pub(super) began: AtomicU64,
    pub(super) phases: [AtomicU64; PHASES],
    /// How many modules there are, and how many threads there were.
    pub(super) modules_noted: AtomicU64,
    pub(super) threads_seen: AtomicU64,
    /// Whether the main thread will be told to leave.
    pub(super) has_alarm: AtomicU64,
    pub(super) crash: Stop,
    pub(super) look: Stop,
    pub(super) modules: [Module; MODULES],
    pub(super) threads: [Slot; THREADS],
}

impl File {
    /// Returns the place of the calling thread, if it has one.
    pub(super) fn slot(&self) -> Option<&Slot> {
        let number = Thread::known()?.watched.get();
        self.threads.get((number as usize).checked_sub(1)?)
    }
}

pub(super) static FILE: AtomicPtr<File> = AtomicPtr::new(null_mut());

/// Returns the file, if the process is watched.
#[inline]
pub(super) fn file() -> Option<&'static File> {
    // Acquire: pairs with the `Release` in `begin`.
    // SAFETY: NULL, or the mapping that `begin` made, which stays. All of it consists of atomics, of which every value is
    // valid.
    unsafe { FILE.load(Ordering::Acquire).as_ref() }
}

#[inline]
pub(crate) fn is_watched() -> bool {
    // Relaxed: nothing is read because of the answer.
    !FILE.load(Ordering::Relaxed).is_null()
}

/// Whether the functions of CPython are redirected only to be watched.
static ONLY: AtomicBool = AtomicBool::new(false);

/// Returns whether the process is watched, and nothing else: the seatbelt is off.
#[inline]
pub(crate) fn is_only_watched() -> bool {
    // Relaxed: the flag is set before threads are led here. It is taken back by a thread that protects the process.
    ONLY.load(Ordering::Relaxed)
}

/// Says whether the process is only watched. The functions of CPython have been redirected.
pub(crate) fn set_only_watched(only: bool) {
    extern "C" {
        // In `calls.c`: a thread that CPython unwinds is let go.
        static pep788_only_watches: AtomicU32;
    }
    ONLY.store(only, Ordering::Relaxed);
    // SAFETY: a variable that C reads as a whole.
    unsafe { pep788_only_watches.store(u32::from(only), Ordering::Relaxed) };
}

/// Notes that the seatbelt is on.
pub(crate) fn note_protection() {
    if let Some(file) = file() {
        file.is_protected.store(1, Ordering::Relaxed);
    }
}

/// Forgets the file, in a forked child: it is the parent's.
pub(crate) fn forget_parent() {
    FILE.store(null_mut(), Ordering::Relaxed);
}

/// Returns the time in nanoseconds.
pub(super) fn now() -> u64 {
    os::now().as_nanos() as u64
}

/// Returns the same time in steps of a few milliseconds, and takes less.
pub(super) fn roughly_now() -> u64 {
    coarse_clock() * 1_000_000
}
