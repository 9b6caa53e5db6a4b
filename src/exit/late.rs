//! Ends a thread that comes too late: it asks for an interpreter that finalizes, or that is gone.
//!
//! The thread cannot be told that it is too late. So the bare system call ends the thread.
//!
//! What CPython does is worse for the owner of the thread. Up to 3.13 CPython unwinds the stack (`pthread_exit`).
//! `noexcept` and Rust frames turn the unwinding into an abort. The unwinding also runs destructors of frames that
//! were in the middle of their work. From 3.14 on the thread hangs, and each thread that joins it hangs too. Here
//! nothing is unwound and no destructor runs, and the kernel wakes the threads that join the late one.
//!
//! What the thread held stays held, as with a thread that hangs. An ordinary mutex stays locked, and the kernel
//! passes a robust mutex on. Nobody frees the stack of a detached thread. So a thread that waits for such an ordinary
//! mutex never stops waiting, and `bound` takes care that the process ends all the same.
//!
//! Only glibc is prepared for a thread that disappears without notice: a thread that joins waits for a word that the
//! kernel clears. With musl, the thread ends in musl's way if it can be joined. If it cannot, and on other systems, the
//! late thread sleeps without end.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::fmt::Write as _;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::os;
use crate::python::{self, Api};
use crate::support::kept::Kept;
use crate::support::memory::Text;
use crate::support::short_text::ShortText;
use crate::system::names::this_name;
use crate::system::stack;
use crate::system::symbols::Symbols;
use crate::thread::thread::Thread;
use crate::watch::threads::{self, Fate};

/// How many late threads are remembered for the report. The others are only counted.
const REMEMBERED: usize = 20;
/// How many functions of each thread's stack are remembered: enough to come out of CPython.
const DEPTH: usize = 32;

struct Late {
    name: ShortText<16>,
    id: u64,
    stack: [usize; DEPTH],
    depth: usize,
}

/// The place of one late thread. It has no lock, because another thread could have the lock while this thread forks.
struct Place {
    late: UnsafeCell<MaybeUninit<Late>>,
    is_filled_in: AtomicBool,
}

// SAFETY: one thread writes a place, the one that counted it. Other threads read it after it is filled in.
unsafe impl Sync for Place {}

static LATE: [Place; REMEMBERED] = [const {
    Place { late: UnsafeCell::new(MaybeUninit::uninit()), is_filled_in: AtomicBool::new(false) }
}; REMEMBERED];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Returns how many threads came too late.
pub(crate) fn count() -> usize {
    // Relaxed: used for messages to people.
    COUNT.load(Ordering::Relaxed)
}

/// Is called in each late thread, before the thread is ended.
static LATE_COMES: Kept<fn(&'static Api)> = Kept::new();

/// Ends the calling thread. The thread has nothing attached, and holds no lock of the library.
pub(crate) fn end() -> ! {
    remember();
    if let Some(py) = python::get() {
        threads::is_late(py, Fate::Ended);
        if let Some(comes) = LATE_COMES.get() {
            comes(py);
        }
    }
    // Signal handlers of the program must not meet a thread that the library has forgotten.
    os::block_signals();
    Thread::forget_this();
    os::end_this_thread()
}

fn remember() {
    // Relaxed: no two threads get the same place, and the flag of a place publishes what is in it.
    let Some(place) = LATE.get(COUNT.fetch_add(1, Ordering::Relaxed)) else { return };
    let mut late = Late { name: this_name(), id: os::this_id(), stack: [0; DEPTH], depth: 0 };
    late.depth = stack::walk(&mut late.stack);
    // SAFETY: this place belongs to this thread, and no thread reads it yet.
    unsafe { (*place.late.get()).write(late) };
    // Release: pairs with the `Acquire` in `all`.
    place.is_filled_in.store(true, Ordering::Release);
}

fn all() -> impl Iterator<Item = &'static Late> {
    // Acquire: pairs with the `Release` in `remember`.
    let filled_in = LATE.iter().filter(|place| place.is_filled_in.load(Ordering::Acquire));
    // SAFETY: the place is filled in, and is never written again.
    filled_in.map(|place| unsafe { (*place.late.get()).assume_init_ref() })
}

/// Adds a line for each late thread to a report. The line has the thread's name, and the first function on its stack
/// that belongs neither to the library nor to CPython.
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

/// Returns whether a file's name is that of an interpreter, of its `ctypes`, or of a C library that others use for
/// callbacks (cffi, libffi).
fn is_python(file: &str) -> bool {
    ["python", "Python", "libpython", "_ctypes", "_cffi_backend", "libffi"]
        .iter()
        .any(|name| file.starts_with(name))
}

/// Looks up what is needed to end a thread. `comes` is called in each late thread. This is not done when the thread
/// ends: a thread that has the loader's lock may be waiting for it then.
pub(crate) fn prepare(comes: fn(&'static Api)) {
    LATE_COMES.keep(comes);
    os::prepare_to_end_threads();
    extern "C" {
        // Defined in `calls.c`, which is linked into this library.
        static pep788_end_late_thread: AtomicPtr<c_void>;
    }
    unsafe extern "C" fn end_for_c() -> ! {
        end()
    }
    // SAFETY: stores a pointer to a function, which C reads as a whole. Relaxed: the function exists from the
    // beginning.
    unsafe { pep788_end_late_thread.store(end_for_c as *mut c_void, Ordering::Relaxed) };
}
