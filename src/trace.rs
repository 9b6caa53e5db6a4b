//! `PEP788_TRACE=1`: where each guard that is out was taken.
//!
//! A guard is a count, so one cannot be told from another. With tracing on, each gets a *slip*: a
//! block of memory with notes on who took it, and its handle is the slip's address instead of the
//! record's (`capi/handle.rs`). So an exit that waits can list them, and one that is closed twice is
//! known. Whatever fails on the way, for want of memory, leaves a guard without a slip.
//!
//! With tracing off, all of this is the one branch of [`is_off`] where a guard is taken.

use std::collections::VecDeque;
use std::ffi::c_ulong;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::interpreter::{Record, RECORD_ALIGN};
use crate::memory::{self, try_box};
use crate::say::Seconds;
use crate::symbols::{Symbol, Symbols};
use crate::sync::{lock, Mutex, MutexGuard};
use crate::{attach, fork, python, settings, stack};

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

/// A slip for a guard that was just taken. `None`: tracing is off, or there is no memory.
#[inline]
pub(crate) fn note(record: &'static Record, what: What) -> Option<&'static Slip> {
    if is_off() {
        return None;
    }
    Slip::fill_in(record, what)
}

impl Slip {
    #[cold]
    fn fill_in(record: &'static Record, what: What) -> Option<&'static Slip> {
        // Before any lock: this calls Python, and the unwinder.
        let notes = Notes::take(what);
        let slip = lock(&POOL).claim()?;
        *lock(&slip.notes) = Some(notes);
        // Relaxed: the stamp brings them to who looks at the slip.
        slip.record.store(std::ptr::from_ref(record) as usize, Ordering::Relaxed);
        slip.record_life.store(record.life(), Ordering::Relaxed);
        slip.generation.store(fork::generation(), Ordering::Relaxed);
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
        // SAFETY: readable, says the caller. Where it is a slip, it is one for ever.
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
        self.generation.load(Ordering::Relaxed) == fork::generation() && self.is_of_living()
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

    /// Where the guard was taken, as lines to follow a message.
    pub(crate) fn tell(&self) -> memory::Text {
        let notes = *lock(&self.notes);
        let mut text = memory::Text::default();
        if let Some(notes) = notes {
            let symbols = Symbols::look_up(notes.stack().iter().copied());
            let _ = writeln!(text, "\n  it was {}", notes.by_whom());
            notes.write_place(&mut text, &symbols, "    ");
        }
        text
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

/// A piece of text that needs no allocation: what does not fit is cut off at the front.
#[derive(Clone, Copy)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn of(text: &[u8]) -> Self {
        let end = &text[text.len().saturating_sub(N)..];
        let mut bytes = [0; N];
        bytes[..end.len()].copy_from_slice(end);
        Text { bytes, length: end.len() }
    }
}

impl<const N: usize> std::fmt::Display for Text<N> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&String::from_utf8_lossy(&self.bytes[..self.length]))
    }
}

/// So many functions are noted, those of this library and of the interpreter among them.
const DEPTH: usize = 40;

/// What is noted of a guard. Plain data, so that a slip is all the memory that it takes.
#[derive(Clone, Copy)]
struct Notes {
    what: What,
    when: Instant,
    thread: Text<16>,
    thread_id: u64,
    /// The name that `threading` knows the thread by.
    python_thread: Option<Text<48>>,
    python: Option<PythonPlace>,
    stack: [usize; DEPTH],
    depth: usize,
}

/// The innermost Python code of a thread.
#[derive(Clone, Copy)]
struct PythonPlace {
    function: Text<64>,
    file: Text<224>,
    line: c_ulong,
}

impl Notes {
    /// Of the calling thread, now.
    fn take(what: What) -> Notes {
        let mut notes = Notes {
            what,
            when: Instant::now(),
            // SAFETY: no preconditions.
            thread: thread_name(unsafe { libc::pthread_self() }),
            thread_id: thread_id(),
            python_thread: None,
            python: None,
            stack: [0; DEPTH],
            depth: 0,
        };
        notes.depth = stack::walk(&mut notes.stack);
        if let Some(py) = python::get().filter(|py| !attach::attached(py).is_null()) {
            // SAFETY: attached.
            unsafe {
                let _exception = python::KeepException::new(py);
                let name = python::threading::name(py);
                notes.python_thread = name.and_then(|name| Some(Text::of(name.utf8()?)));
                notes.python = python::innermost_frame(py).and_then(|frame| {
                    Some(PythonPlace {
                        function: Text::of(frame.function.utf8()?),
                        file: Text::of(frame.file.utf8()?),
                        line: frame.line,
                    })
                });
            }
        }
        notes
    }

    fn stack(&self) -> &[usize] {
        &self.stack[..self.depth]
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::Guard => "PyInterpreterGuard",
            What::StrongRef => "PyInterpreterRef",
            What::Hold => "hold of an Ensure or of PyThreadState_SetDaemon(0)",
        }
    }

    fn by_whom(&self) -> impl fmt::Display + '_ {
        struct ByWhom<'a>(&'a Notes);
        impl fmt::Display for ByWhom<'_> {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Notes { when, thread, thread_id, python_thread, .. } = self.0;
                let ago = Seconds(when.elapsed());
                write!(to, "taken {ago} ago by thread \"{thread}\" (id {thread_id}")?;
                if let Some(name) = python_thread {
                    write!(to, ", Python's \"{name}\"")?;
                }
                to.write_str(")")
            }
        }
        ByWhom(self)
    }

    /// The Python code that it was taken in, and the native stack, innermost first: a line each.
    fn write_place(&self, to: &mut memory::Text, symbols: &Symbols, before: &str) {
        if let Some(PythonPlace { function, file, line }) = &self.python {
            let _ = writeln!(to, "{before}in Python: {function}, {file}:{line}");
        }
        let frames = || self.stack().iter().filter_map(|at| symbols.get(*at));
        for symbol in frames().skip(own_frames(frames())) {
            let library = symbol.library.as_str();
            let _ = match &symbol.function {
                Some(function) => writeln!(to, "{before}{} ({library})", function.as_str()),
                None => writeln!(to, "{before}? ({library}+{:#x})", symbol.offset()),
            };
        }
        if self.depth == DEPTH {
            let _ = writeln!(to, "{before}...");
        }
    }
}

/// How many of the innermost frames are of this library: all but its function that was called.
fn own_frames<'a>(frames: impl Iterator<Item = &'a Symbol> + Clone) -> usize {
    let ours = frames.clone().take_while(|frame| frame.is_ours).count();
    // Linked into the program, the library cannot be told from it but by the names.
    let is_api = |frame: &Symbol| {
        let names = ["PyInterpreter", "PyThreadState_", "Pep788_"];
        let function = frame.function.as_ref();
        function.is_some_and(|f| names.iter().any(|name| f.as_str().starts_with(name)))
    };
    match frames.clone().take(ours).position(is_api) {
        Some(called) => called,
        None if ours < frames.count() => ours,
        None => 0,
    }
}

/// The name of a thread, which lives.
pub(crate) fn thread_name(thread: libc::pthread_t) -> Text<16> {
    let mut name = [0u8; 64];
    // SAFETY: a living thread, says the caller, and a valid place of that size, which stays NUL-terminated.
    unsafe { libc::pthread_getname_np(thread, name.as_mut_ptr().cast(), name.len()) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    Text::of(&name[..length])
}

/// What debuggers and `threading.Thread.native_id` know the thread by.
pub(crate) fn thread_id() -> u64 {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing.
    return unsafe { libc::syscall(libc::SYS_gettid) } as u64;
    #[cfg(not(target_os = "linux"))]
    {
        let mut id = 0;
        // SAFETY: a valid place; 0 stands for the calling thread.
        unsafe { libc::pthread_threadid_np(0, &mut id) };
        id
    }
}

/// So many guards are listed for each interpreter.
const LISTED: usize = 50;

/// Adds to a report what is known of the guards of `record`, of which `out` are out, in lines that begin
/// with `before`. `false`: tracing is off.
pub(crate) fn list(
    record: &'static Record,
    out: usize,
    text: &mut memory::Text,
    before: &str,
) -> bool {
    if is_off() {
        return false;
    }
    let mut notes = of_record(record);
    let noted = notes.len();
    notes.truncate(LISTED);
    let symbols = Symbols::look_up(notes.iter().flat_map(|notes| notes.stack()).copied());
    let places = places(&notes, &symbols, before);
    // What was taken in the same place is told together.
    for (index, (place, _)) in places.iter().enumerate() {
        let alike = || places.iter().filter(|(other, _)| other == place);
        if places[..index].iter().any(|(before, _)| before == place) {
            continue;
        }
        for (_, notes) in alike() {
            let _ = writeln!(text, "{before}- {}, {}", notes.name(), notes.by_whom());
        }
        if alike().count() > 1 {
            let _ = writeln!(text, "{before}  {} of them, from", alike().count());
        }
        let _ = text.write_str(place.as_str());
    }
    if noted > LISTED {
        let _ = writeln!(text, "{before}and {} more", noted - LISTED);
    }
    if out > noted {
        let _ = writeln!(text, "{before}and {} of which nothing was noted", out - noted);
    }
    true
}

/// What is said of the place where each was taken.
fn places<'a>(
    notes: &'a [Notes],
    symbols: &Symbols,
    before: &str,
) -> Vec<(memory::Text, &'a Notes)> {
    let mut indent = memory::Text::default();
    let _ = write!(indent, "{before}    ");
    let mut places = Vec::new();
    if places.try_reserve_exact(notes.len()).is_ok() {
        places.extend(notes.iter().map(|notes| {
            let mut place = memory::Text::default();
            notes.write_place(&mut place, symbols, indent.as_str());
            (place, notes)
        }));
    }
    places
}

/// The notes of its guards that are out, the oldest first.
fn of_record(record: &'static Record) -> Vec<Notes> {
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
    let mut notes = Vec::new();
    if notes.try_reserve_exact(slips.len()).is_ok() {
        notes.extend(slips.into_iter().filter_map(|slip| *lock(&slip.notes)));
    }
    notes.sort_unstable_by_key(|notes: &Notes| notes.when);
    notes
}
