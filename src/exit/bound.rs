//! Limits how long the exit of Python may take, and ends the process if the exit takes longer.
//!
//! A thread that ended late, or that CPython made hang, may have a lock that a destructor waits for. So when the gate
//! of the main interpreter has closed, a thread of the library watches. If the process does not come to its end in
//! time, that thread says where the exit is and which threads came too late, and ends the process.
//!
//! *The process ends with its own exit status*, which `status` finds out. If that fails, the status is a guess, and
//! the report says so.
//!
//! A program that only embeds Python goes on when Python is gone. The library never ends such a program. It only
//! reports, if the program is still in finalization or in `exit`.

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_void, CStr};
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use super::calls::are_protected;
use super::late;
use super::status::{self, End};
use crate::gate::registry::main;
use crate::os::{self, say};
use crate::patch::signal;
use crate::python::states;
use crate::python::{self, Api};
use crate::support::clock::Instant;
use crate::support::memory::Text;
use crate::support::seconds::Seconds;
use crate::support::settings;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::system::generation::generation;
use crate::system::stack::{self, Return};
use crate::system::symbols::Symbols;
use crate::system::worker;

/// An exit that is watched.
#[derive(Clone, Copy)]
struct Exit {
    process: usize,
    begun: Instant,
    timeout: Duration,
    /// The thread that conducts the exit.
    conductor: libc::pid_t,
    /// The return from finalization into the function that has the exit status.
    back: Option<Return>,
    /// Whether the exit callback has told of the exit.
    is_announced: bool,
}

static EXIT: Mutex<Option<Exit>> = Mutex::new(None);

/// How an exit that took too long ends.
static VERDICT: Mutex<Option<Verdict>> = Mutex::new(None);
type Verdict = (Exit, Option<End>);

/// The locks of this file.
pub(crate) struct Locks {
    _exit: MutexGuard<'static, Option<Exit>>,
    _verdict: MutexGuard<'static, Option<Verdict>>,
    _work: worker::Lock,
}

/// Takes the locks of this file for the time of a fork.
pub(crate) fn hold_locks() -> Locks {
    Locks { _exit: lock(&EXIT), _verdict: lock(&VERDICT), _work: worker::hold_lock() }
}

/// Whether the program that exits, or has exited, is Python's own.
static THROUGH_MAIN: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_of_pythons_own_program() -> bool {
    // Relaxed: a thread that comes after the door has closed learns that by other means.
    THROUGH_MAIN.load(Ordering::Relaxed)
}

/// The functions in which a program of Python's own runs.
const MAIN: [&CStr; 3] = [c"Py_RunMain", c"Py_Main", c"Py_BytesMain"];
/// The functions that have the exit status while finalization goes on.
const WITH_STATUS: [&CStr; 2] = [c"Py_RunMain", c"Py_Exit"];

fn address(name: &CStr) -> usize {
    python::address_of(name) as usize
}

/// Begins to watch the exit of the main interpreter. The door of that interpreter has closed, and the calling thread
/// conducts the exit.
pub(super) fn begin() {
    THROUGH_MAIN.store(Return::into_one_of(&MAIN.map(address)).is_some(), Ordering::Relaxed);
    let Some(timeout) = settings::get().exit_timeout(are_protected()) else { return };
    let back = Return::into_one_of(&WITH_STATUS.map(address));
    let exit = Exit {
        process: generation(),
        begun: Instant::now(),
        timeout,
        conductor: os::tasks::this_thread(),
        back,
        is_announced: true,
    };
    begin_watch(&mut lock(&EXIT), exit);
}

/// Begins to watch an exit in which the calling thread is too late, and that no exit callback has told of: nothing had
/// come to the library before. The main thread is taken for the one that conducts the exit.
pub(crate) fn begin_unannounced(py: &'static Api) {
    /// The process in which that was done, plus one. It is done once.
    static DONE: AtomicUsize = AtomicUsize::new(0);
    if main().gate.is_closed() || !states::are_going_or_gone(py) {
        return;
    }
    let Some(timeout) = settings::get().exit_timeout(are_protected()) else { return };
    let process = generation();
    // Relaxed: a number alone. The lock is for the rest.
    if DONE.swap(process + 1, Ordering::Relaxed) == process + 1 {
        return;
    }
    let mut watched = lock(&EXIT);
    if watched.is_none_or(|other| other.process != process) {
        // SAFETY: no preconditions.
        let conductor = unsafe { libc::getpid() };
        let begun = Instant::now();
        let exit = Exit { process, begun, timeout, conductor, back: None, is_announced: false };
        begin_watch(&mut watched, exit);
    }
}

fn begin_watch(watched: &mut Option<Exit>, exit: Exit) {
    let is_watched = watched.is_some_and(|other| other.process == exit.process);
    *watched = Some(exit);
    status::watch_exit();
    if !is_watched && !os::start_thread(watch) {
        *watched = None;
    }
}

// --- The watch ------------------------------------------------------------------------------------

fn watch() {
    look_at_unannounced();
    loop {
        os::sleep(Duration::from_millis(50));
        let Some(py) = python::get() else { return };
        let exit = {
            let mut watched = lock(&EXIT);
            // If the gate is open, Python runs again. Its next exit has a watch of its own.
            let is_announced = watched.is_none_or(|exit| exit.is_announced);
            let goes_on =
                if is_announced { main().gate.is_closed() } else { states::are_going_or_gone(py) };
            if !goes_on {
                *watched = None;
            }
            // From 3.15 on the interpreter may wait for guards of its own. That time does not count.
            if let Some(exit) = watched.as_mut().filter(|_| waits_for_its_own_guards(py)) {
                exit.begun = Instant::now();
            }
            *watched
        };
        let Some(exit) = exit else { return };
        if exit.begun.elapsed() >= exit.timeout {
            conclude(&exit);
            // An exit that is left alone is not looked at again.
            *lock(&EXIT) = None;
            return;
        }
    }
}

fn waits_for_its_own_guards(py: &'static Api) -> bool {
    let is_going = states::known().is_none_or(|states| states.are_going());
    // SAFETY: needs no thread state.
    py.version >= 0x030f && !is_going && unsafe { py.Py_IsInitialized() } != 0
}

/// Finds out what `begin` sees in the thread that conducts the exit.
fn look_at_unannounced() {
    let unannounced = (*lock(&EXIT)).filter(|exit| !exit.is_announced);
    let Some(mut exit) = unannounced else { return };
    let depth = look_at_stack(exit.conductor);
    // In `exit` the main function has returned. Then only the program's name tells.
    let is_own = is_among(depth, &MAIN.map(address))
        || is_among(depth, &[address(c"exit")]) && is_called_python();
    THROUGH_MAIN.store(is_own, Ordering::Relaxed);
    exit.back = noted(depth).and_then(|noted| noted.back);
    let mut watched = lock(&EXIT);
    if watched.is_some_and(|other| other.process == exit.process && !other.is_announced) {
        *watched = Some(exit);
    }
}

fn is_called_python() -> bool {
    extern "C" {
        static program_invocation_short_name: *const c_char;
    }
    // SAFETY: the C library has set it to a C string, before any code of the process ran.
    let name = unsafe { CStr::from_ptr(program_invocation_short_name) };
    name.to_bytes().starts_with(b"python")
}

fn conclude(exit: &Exit) {
    let depth = look_at_stack(exit.conductor);
    // SAFETY: needs no thread state.
    let is_finalizing =
        python::get().is_some_and(|py| !unsafe { py.PyInterpreterState_Main() }.is_null());
    if depth != 0 && !is_finalizing && !is_in_exit(depth) {
        // Finalization is over, and the program goes on.
        return;
    }
    let in_exit = noted(depth).and_then(|noted| noted.in_exit);
    let end =
        is_of_pythons_own_program().then(|| status::find(exit.back.as_ref(), in_exit.as_ref()));
    *lock(&VERDICT) = Some((*exit, end));
    // The look-up of names takes the loader's lock. The thread that the exit waits for may have that lock.
    if !worker::within(Duration::from_secs(2), explain) {
        say(headline(exit, end).as_str().as_bytes());
    }
    let Some(end) = end else { return };
    worker::within(Duration::from_millis(500), flush);
    // SAFETY: ends the process, as the user asked.
    unsafe {
        match end {
            End::Status(status) => libc::_exit(status),
            End::Guess => libc::_exit(0),
            End::Interrupted => {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::kill(libc::getpid(), libc::SIGINT);
                // This thread blocks the signal, and other threads may block it too.
                libc::usleep(100_000);
                libc::_exit(128 + libc::SIGINT)
            }
        }
    }
}

fn headline(exit: &Exit, end: Option<End>) -> Text {
    let mut text = Text::default();
    let _ = write!(
        text,
        "libpep788: Python's exit has not come to its end in {} (PEP788_EXIT_TIMEOUT_MS), and ",
        Seconds(exit.begun.elapsed())
    );
    let _ = match end {
        None => writeln!(text, "is left alone, as this program only embeds Python"),
        Some(End::Status(status)) => {
            writeln!(text, "is ended now, with its own exit status, {}", status & 0xff)
        }
        Some(End::Guess) => writeln!(text, "is ended now, with exit status 0, which is a guess"),
        Some(End::Interrupted) => writeln!(text, "is ended now, by SIGINT, as it was about to end"),
    };
    text
}

fn explain() {
    let Some((exit, end)) = *lock(&VERDICT) else { return };
    let mut text = headline(&exit, end);
    let stack = noted_stack();
    if stack.is_empty() {
        let _ =
            writeln!(text, "libpep788:   where it is cannot be told (thread {})", exit.conductor);
    } else {
        let _ = writeln!(text, "libpep788:   it is in (thread {}):", exit.conductor);
    }
    let symbols = Symbols::look_up(stack.iter().copied());
    // Leaves out the handler's own frames, and the return from the handler.
    let frames = || stack.iter().filter_map(|at| symbols.get(*at));
    let own = frames().take_while(|frame| frame.is_ours).count();
    for frame in frames().skip(if own == 0 { 0 } else { own + 1 }) {
        let library = frame.library.as_str();
        let _ = match &frame.function {
            Some(function) => writeln!(text, "libpep788:     {} ({library})", function.as_str()),
            None => writeln!(text, "libpep788:     ? ({library}+{:#x})", frame.offset()),
        };
    }
    if late::count() > 0 {
        let _ = writeln!(text, "libpep788:   threads that came too late, and were ended:");
        late::list(&mut text, "libpep788:     ");
    }
    say(text.as_str().as_bytes());
}

fn flush() {
    // SAFETY: flushes all streams. If another thread has a lock, or a pipe is full, only this thread waits.
    unsafe { libc::fflush(core::ptr::null_mut()) };
}

// --- The stack of another thread ------------------------------------------------------------------

const DEPTH: usize = 48;
static STACK: [AtomicUsize; DEPTH] = [const { AtomicUsize::new(0) }; DEPTH];
/// How many places of `STACK` are filled in, plus one. 0 means that the stack is not noted yet.
static NOTED: AtomicUsize = AtomicUsize::new(0);
/// Where to look for a return, in the stack that is noted.
static FUNCTIONS: [AtomicUsize; WITH_STATUS.len()] =
    [const { AtomicUsize::new(0) }; WITH_STATUS.len()];
static RETURNS: Returns = Returns(UnsafeCell::new(None));

/// Returns that are in the noted stack.
#[derive(Clone, Copy)]
struct Noted {
    /// The return into the function that has the exit status.
    back: Option<Return>,
    /// The return into what `exit` has called.
    in_exit: Option<Return>,
}

struct Returns(UnsafeCell<Option<Noted>>);

// SAFETY: the handler writes it before `NOTED` is set, and it is read after that.
unsafe impl Sync for Returns {}

extern "C" fn note_stack(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: `errno` is a variable of this thread alone.
    unsafe {
        let errno = *libc::__errno_location();
        let mut addresses = [0; DEPTH];
        let depth = stack::walk(&mut addresses);
        for (place, address) in STACK.iter().zip(addresses) {
            // Relaxed: published by the store below.
            place.store(address, Ordering::Relaxed);
        }
        // Relaxed: as for the stack.
        let functions = FUNCTIONS.each_ref().map(|place| place.load(Ordering::Relaxed));
        *RETURNS.0.get() = Some(Noted {
            back: Return::into_one_of(&functions),
            in_exit: Return::into_callee_of(libc::exit as *const () as usize),
        });
        NOTED.store(depth + 1, Ordering::Release);
        *libc::__errno_location() = errno;
    }
}

/// Asks the thread by a signal to note its stack, and returns the depth of that stack. Returns 0 if the thread takes
/// no signals, or is gone.
fn look_at_stack(thread: libc::pid_t) -> usize {
    // Relaxed: the signal, which is sent after this, brings it to the thread.
    NOTED.store(0, Ordering::Relaxed);
    for (place, function) in FUNCTIONS.iter().zip(WITH_STATUS.map(address)) {
        place.store(function, Ordering::Relaxed);
    }
    let Some(signal) = signal::take_signal(note_stack) else { return 0 };
    // SAFETY: the call takes numbers only, and the signal has a handler.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
    let begun = Instant::now();
    loop {
        // Acquire: pairs with the `Release` in the handler.
        match NOTED.load(Ordering::Acquire) {
            // This is long, because on a busy machine the thread may have to wait for a processor.
            0 if begun.elapsed() > Duration::from_secs(3) => return 0,
            // SAFETY: no preconditions.
            0 => unsafe { libc::usleep(1000) },
            noted => return noted - 1,
        };
    }
}

/// Returns the returns in a noted stack of this depth.
fn noted(depth: usize) -> Option<Noted> {
    // SAFETY: the handler has run, as the depth says, and does not run again until the next look.
    (depth != 0).then(|| unsafe { *RETURNS.0.get() }).flatten()
}

fn noted_stack() -> Vec<usize> {
    let mut stack = Vec::new();
    // Acquire: pairs with the handler.
    let depth = NOTED.load(Ordering::Acquire).saturating_sub(1);
    if stack.try_reserve_exact(depth).is_ok() {
        stack.extend(STACK[..depth].iter().map(|place| place.load(Ordering::Relaxed)));
    }
    stack
}

/// Returns whether the noted stack is in the end of Python's own program, or of the process.
fn is_in_exit(depth: usize) -> bool {
    if status::exit_has_begun() {
        return true;
    }
    // `exit` is not a function of CPython, but it is found in the same way.
    is_among(depth, &MAIN.map(address)) || is_among(depth, &[c"Py_Exit", c"exit"].map(address))
}

/// Returns whether one of the functions is in the noted stack.
fn is_among(depth: usize, functions: &[usize]) -> bool {
    STACK[..depth].iter().any(|place| {
        let function = stack::function_of(place.load(Ordering::Relaxed)) as usize;
        function != 0 && functions.contains(&function)
    })
}
