//! The seatbelt: `PyGILState_Ensure` and `PyGILState_Release`, for programs as they are.
//!
//! Once it is on, whoever calls CPython's two functions comes to [`gilstate`]'s, which hold the interpreter
//! for the time of the call. [`patch`] writes the jumps, while [`stop`] has all other threads
//! stand still. Never on by itself: see [`protect`].

mod alternatives;
pub(crate) mod gilstate;
mod patch;
mod stop;
mod wait;

pub(crate) use alternatives::{hold_at_fini, run_at_fini, set_at_fini, set_hangs, AtFini};
pub(crate) use gilstate::{
    choose_interpreter,
    forget_parent, give_up_own_holds, hold_threads, note_finalizer, Legacy, Seen, FAILED,
};
pub(crate) use wait::Wait;

use std::ffi::{c_int, c_void, CStr};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::python::{self, Api, PyThreadState};
use crate::say::say;
use crate::sync::{lock, Mutex};
use crate::{attach, interpreter, settings};

static ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_on() -> bool {
    // Relaxed: for what is told to people.
    ON.load(Ordering::Relaxed)
}

/// Why it cannot be switched on.
pub(crate) enum Why {
    NoPython,
    /// Python runs, but the calling thread has nothing attached.
    NotAttached,
    CounterNotFound,
    Patch(patch::Why),
    Stop(stop::Why),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoPython => f.write_str("there is no CPython 3.9 or later in this process"),
            Why::NotAttached => f.write_str(
                "Python runs, and the calling thread has no attached thread state; \
                 switch it on with one, or before Py_Initialize",
            ),
            Why::CounterNotFound => {
                f.write_str("this Python's thread states are not as those of CPython")
            }
            Why::Patch(why) => why.fmt(f),
            Why::Stop(why) => why.fmt(f),
        }
    }
}

/// Has CPython's two functions served by the library, from now on, for every caller. Threads may
/// be inside them.
///
/// Before `Py_Initialize`, or with a thread state attached.
pub(crate) fn protect() -> Result<(), Why> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = lock(&ONE_AT_A_TIME);
    if is_on() {
        return Ok(());
    }
    let py = python::get().ok_or(Why::NoPython)?;
    let [ensure, release] = originals().ok_or(Why::NoPython)?;
    // SAFETY: needs no thread state.
    if unsafe { py.Py_IsInitialized() } != 0 && !patch::is_taken_by_a_copy(ensure) {
        let state = attach::attached(py);
        if state.is_null() {
            return Err(Why::NotAttached);
        }
        // SAFETY: attached, and the functions are CPython's own yet.
        let counter = unsafe { find_counter(ensure, release, state) };
        gilstate::set_counter(counter.ok_or(Why::CounterNotFound)?);
    }
    let new = [gilstate::ensure as *const () as usize, gilstate::release as *const () as usize];
    patch::redirect([(ensure as usize, new[0]), (release as usize, new[1])])?;
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// As [`protect`]; says in a line why it cannot be.
pub(crate) fn protect_or_say() -> bool {
    let done = protect();
    if let Err(why) = &done {
        say(format!("libpep788: PyGILState_Ensure cannot be protected here: {why}\n").as_bytes());
    }
    done.is_ok()
}

fn originals() -> Option<[*mut c_void; 2]> {
    let found = [c"PyGILState_Ensure", c"PyGILState_Release"].map(python::address_of);
    (!found.contains(&std::ptr::null_mut())).then_some(found)
}

/// Where a thread state counts the calls of `PyGILState_Ensure` it is in, in bytes: found by the effect
/// that calls have on it. It is needed for calls that began in CPython's own function.
///
/// # Safety
/// `state` is attached to the calling thread; the functions are CPython's own.
unsafe fn find_counter(
    ensure: *mut c_void,
    release: *mut c_void,
    state: *mut PyThreadState,
) -> Option<usize> {
    /// A thread state is longer in every version, and has the counter in this part.
    const WORDS: usize = 64;
    // SAFETY: the functions' documented signatures. Of the thread state, which is the calling
    // thread's own, words are only read; attached, the calls return at once.
    unsafe {
        let ensure = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(ensure);
        let release = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int)>(release);
        let words = || -> [u32; WORDS] {
            std::array::from_fn(|index| state.cast::<u32>().add(index).read_volatile())
        };
        let before = words();
        let first = ensure();
        let once = words();
        let second = ensure();
        let twice = words();
        release(second);
        let once_again = words();
        release(first);
        let after = words();
        let mut found = (0..WORDS).filter(|&index| {
            let count = before[index];
            let expected =
                [count.wrapping_add(1), count.wrapping_add(2), count.wrapping_add(1), count];
            [once[index], twice[index], once_again[index], after[index]] == expected
        });
        let only = found.next()?;
        found.next().is_none().then_some(only * size_of::<u32>())
    }
}

/// Whether the environment asks for it. Not from the settings, which are read later.
fn is_asked_for() -> bool {
    // SAFETY: as any `getenv`; the text is compared at once.
    unsafe {
        let value = libc::getenv(settings::GILSTATE.as_ptr());
        !value.is_null() && CStr::from_ptr(value) == c"protect"
    }
}

/// When the library is loaded: then, as a rule, nobody else runs yet. If there is no Python yet, or it is
/// not for this thread to do, the first use of the library does it.
extern "C" fn at_load() {
    if is_asked_for() && python::address_of(c"PyGILState_Ensure") != std::ptr::null_mut() {
        match protect() {
            Ok(()) | Err(Why::NoPython | Why::NotAttached) => {}
            Err(why) => {
                TRIED.store(true, Ordering::Relaxed);
                say(format!("libpep788: PyGILState_Ensure cannot be protected here: {why}\n")
                    .as_bytes());
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[used]
#[link_section = ".init_array"]
static AT_LOAD: extern "C" fn() = at_load;

/// Whether it was tried, and said why it cannot be.
static TRIED: AtomicBool = AtomicBool::new(false);

/// At the first use of the library in an interpreter, with a thread state attached.
pub(crate) fn at_first_use() {
    // Relaxed: `protect` lets one in at a time, and a line said twice does no harm.
    if is_asked_for() && !is_on() && !TRIED.swap(true, Ordering::Relaxed) {
        protect_or_say();
    }
}

/// Has the exit callback installed in the main interpreter, by the attached thread state.
pub(crate) fn install(py: &'static Api) {
    let state = attach::attached(py);
    if !state.is_null() {
        // SAFETY: attached. If it is refused, it is too late, or the first call tries again.
        let _ = unsafe { interpreter::of(py, state) };
    }
}
