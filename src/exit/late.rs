//! A thread that comes too late: it asks for an interpreter that finalizes, or is gone, and cannot be
//! told so. It is ended, by the bare system call.
//!
//! What CPython does is worse for whoever owns the thread. Up to 3.13 it unwinds the stack
//! (`pthread_exit`), which `noexcept` and Rust frames turn into an abort, and runs destructors of
//! frames that were in the middle of their work. From 3.14 on the thread hangs, and with it
//! whoever joins it. Here nothing is unwound and no destructor runs, and the kernel wakes those who join the thread.
//!
//! What the thread held stays held, as that of a thread that hangs: an ordinary mutex stays
//! locked, a robust one is passed on by the kernel. Nobody frees the stack of a detached one. So whoever waits for such a mutex
//! never stops waiting, and `bound` sees to it that the process ends all the same.
//!
//! glibc alone is prepared for a thread that is gone without a word: who joins waits for the word that the
//! kernel clears. In musl the kernel clears the lock of musl's list of threads, which somebody else
//! may have. There, and on other systems, the thread sleeps without end.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::support::memory::Text;
use crate::support::short_text::ShortText;
use crate::system::names::{this_id, this_name};
use crate::system::stack;
use crate::system::symbols::Symbols;
use crate::thread::thread::Thread;

/// So many are remembered for the report; the others are counted.
const REMEMBERED: usize = 20;
/// Of each, so many functions of its stack: enough to come out of CPython.
const DEPTH: usize = 32;

struct Late {
    name: ShortText<16>,
    id: u64,
    stack: [usize; DEPTH],
    depth: usize,
}

/// Without a lock, which another thread could have while this one forks.
struct Place {
    late: UnsafeCell<MaybeUninit<Late>>,
    is_filled_in: AtomicBool,
}

// SAFETY: one thread writes it, the one that counted it, and others read it when it is filled in.
unsafe impl Sync for Place {}

static LATE: [Place; REMEMBERED] = [const {
    Place { late: UnsafeCell::new(MaybeUninit::uninit()), is_filled_in: AtomicBool::new(false) }
}; REMEMBERED];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many threads came too late.
pub(crate) fn count() -> usize {
    // Relaxed: for what is told to people.
    COUNT.load(Ordering::Relaxed)
}

/// Ends the calling thread. Nothing of it is attached, and the library holds no lock.
pub(crate) fn end() -> ! {
    remember();
    // Signal handlers of the program must not meet a thread that the library has forgotten.
    block_signals();
    Thread::forget_this();
    vanish()
}

fn remember() {
    // Relaxed: no two threads are given the same place, and what is in it is published by itself.
    let Some(place) = LATE.get(COUNT.fetch_add(1, Ordering::Relaxed)) else { return };
    let mut late = Late { name: this_name(), id: this_id(), stack: [0; DEPTH], depth: 0 };
    late.depth = stack::walk(&mut late.stack);
    // SAFETY: this thread's place, which nobody reads yet.
    unsafe { (*place.late.get()).write(late) };
    // Release: pairs with `all`.
    place.is_filled_in.store(true, Ordering::Release);
}

fn all() -> impl Iterator<Item = &'static Late> {
    // Acquire: pairs with `remember`.
    let filled_in = LATE.iter().filter(|place| place.is_filled_in.load(Ordering::Acquire));
    // SAFETY: filled in, and never written again.
    filled_in.map(|place| unsafe { (*place.late.get()).assume_init_ref() })
}

/// Adds a line for each to a report: its name, and the first function on its stack that is neither
/// the library's nor CPython's.
pub(crate) fn list(text: &mut Text, before: &str) {
    let symbols = Symbols::look_up(all().flat_map(|late| &late.stack[..late.depth]).copied());
    for late in all() {
        let _ = write!(text, "{before}thread \"{}\" (id {})", late.name, late.id);
        let mut frames = late.stack[..late.depth].iter().filter_map(|at| symbols.get(*at));
        if let Some(frame) =
            frames.find(|frame| !frame.is_ours && !is_python(frame.library.as_str()))
        {
            let function = frame.function.as_ref().map_or("?", Text::as_str);
            let _ = write!(text, ", by {function} ({})", frame.library.as_str());
        }
        let _ = text.write_str("\n");
    }
    let more = count().saturating_sub(REMEMBERED);
    if more > 0 {
        let _ = writeln!(text, "{before}and {more} more");
    }
}

/// Whether a file's name is that of an interpreter, of its `ctypes`, or of the C library of those who call back.
fn is_python(file: &str) -> bool {
    ["python", "libpython", "_ctypes", "_cffi_backend", "libffi"]
        .iter()
        .any(|name| file.starts_with(name))
}

fn block_signals() {
    // SAFETY: a valid place, filled in before it is read.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

/// glibc's count of the process's threads; null where it is not known. The last one to end ends the
/// process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
static THREADS: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Looks up what the end of a thread takes. Not done there: a thread may wait for it that has the
/// loader's lock.
pub(crate) fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: a constant of dlsym's, and a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__nptl_nthreads".as_ptr()) };
        // Relaxed: an address of a variable that is there from the beginning.
        THREADS.store(found, Ordering::Relaxed);
    }
    extern "C" {
        // Of `calls.c`, which is linked into this library.
        static pep788_end_late_thread: AtomicPtr<c_void>;
    }
    unsafe extern "C" fn end_for_c() -> ! {
        end()
    }
    // SAFETY: a pointer to a function, which C reads as a whole. Relaxed: as above.
    unsafe { pep788_end_late_thread.store(end_for_c as *mut c_void, Ordering::Relaxed) };
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn vanish() -> ! {
    use std::sync::atomic::AtomicU32;
    // SAFETY: null, or glibc's variable, which it changes by atomic operations only.
    let threads = unsafe { THREADS.load(Ordering::Relaxed).cast::<AtomicU32>().as_ref() };
    // SeqCst, as glibc has it. It counts the thread that it started, or the main one.
    if threads.is_some_and(|threads| threads.fetch_sub(1, Ordering::SeqCst) == 1) {
        // SAFETY: as glibc does when the last thread ends.
        unsafe { libc::exit(0) };
    }
    loop {
        // SAFETY: ends this thread, of which nothing is used any more but by those who know that
        // it may end at any time.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn vanish() -> ! {
    loop {
        // SAFETY: no preconditions.
        unsafe { libc::pause() };
    }
}
