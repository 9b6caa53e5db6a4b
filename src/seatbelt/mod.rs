//! The seatbelt: `PyGILState_Ensure` and `PyGILState_Release`, for programs as they are.
//!
//! Once it is on, whoever calls CPython's two functions comes to [`gilstate`]'s, which hold the interpreter
//! for the time of the call. [`patch`] writes the jumps, while [`stop`] has all other threads
//! stand still. Never on by itself: see [`protect`].
//!
//! pybind11 and cffi do by themselves what the two do, with `PyThreadState_New`, `PyEval_AcquireThread` and
//! `PyThreadState_DeleteCurrent`: so
//! these are served too, and are as they were for everybody else.

mod alternatives;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arrival;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod bound;
mod gilstate;
mod hold;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imports;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod original;
#[cfg_attr(
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "patch_elsewhere.rs"
)]
mod patch;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod slots;
mod states;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod stop;
#[cfg(target_os = "linux")]
mod tasks;
mod wait;

pub(crate) use alternatives::{hold_at_fini, run_at_fini, set_at_fini, set_hangs, AtFini};
pub(crate) use gilstate::{choose_interpreter, FAILED};
pub(crate) use hold::{
    forget_parent, give_up_own_holds, hold_threads, linger, note_finalizer, Legacy, Seen,
};
pub(crate) use wait::Wait;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::python::{self, Api};
use crate::say::say;
use crate::sync::{lock, Mutex, MutexGuard};
use crate::{attach, fork, interpreter, settings};

static ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_on() -> bool {
    // Relaxed: for what is told to people.
    ON.load(Ordering::Relaxed)
}

/// Why it cannot be switched on.
pub(crate) enum Why {
    NoPython,
    States(states::Why),
    Patch(patch::Why),
    /// It came late, and the loader cannot be had to tell of that.
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Unannounced(patch::Why),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoPython => f.write_str("there is no CPython 3.9 or later in this process"),
            Why::States(states::Why::TooNew) => f.write_str(
                "this version of Python is newer than the library, which does not know its thread states",
            ),
            Why::States(states::Why::Missing(name)) => {
                write!(f, "this Python does not export {}", name.to_string_lossy())
            }
            Why::Patch(why) => why.fmt(f),
            #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
            Why::Unannounced(patch::Why::Taken) => f.write_str(
                "Python came late, and somebody else has the loader tell of that; debuggers do, \
                 unless they are attached later",
            ),
            #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
            Why::Unannounced(why) => {
                write!(f, "Python came late, and the loader cannot be made to tell of it: {why}")
            }
        }
    }
}

/// Has CPython's two functions served by the library, from now on, for every caller. Threads may
/// be inside them. Any thread may.
pub(crate) fn protect() -> Result<(), Why> {
    let py = python::get().ok_or(Why::NoPython)?;
    switch_on(py)?;
    let attached = attach::attached(py);
    if !attached.is_null() {
        // The exit waits in it: so callbacks that are registered from now on are before the wait.
        // SAFETY: attached. A refusal means that it is too late, or comes again with the first call.
        let _ = unsafe { interpreter::of(py, attached) };
    }
    Ok(())
}

static SWITCH: Mutex<()> = Mutex::new(());

/// Locks that a fork takes first, as who has the switch waits for other threads.
pub(crate) struct Locks {
    _switch: MutexGuard<'static, ()>,
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    _bound: bound::Locks,
}

/// For the time of a fork, so that the child finds the seatbelt on or off.
pub(crate) fn hold_locks() -> Locks {
    Locks {
        _switch: lock(&SWITCH),
        #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
        _bound: bound::hold_locks(),
    }
}

fn switch_on(py: &'static Api) -> Result<(), Why> {
    if is_on() {
        return Ok(());
    }
    fork::watch();
    // Before the lock, which a fork waits for: these take the loader's, which may wait for a fork.
    states::look(py).map_err(Why::States)?;
    let redirections = redirections(python::address_of).ok_or(Why::NoPython)?;
    let _one_at_a_time = lock(&SWITCH);
    if is_on() {
        return Ok(());
    }
    let copy =
        patch::redirect(&redirections, &alternatives::for_copies(), patch::Runners::AnyThread)
            .map_err(Why::Patch)?;
    if let Some(copy) = copy {
        alternatives::hand_on_to(&copy);
    }
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    imports::redirect();
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// The door of the main interpreter has closed, and the calling thread conducts the exit.
pub(crate) fn bound_exit() {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    bound::begin();
}

/// Which functions of CPython's are served by which of ours, as addresses.
fn redirections(find: python::Finder) -> Option<Vec<(usize, usize)>> {
    let all = [
        (c"PyGILState_Ensure", gilstate::ensure as *const ()),
        (c"PyGILState_Release", gilstate::release as *const ()),
        (c"PyThreadState_New", gilstate::new as *const ()),
        (c"PyEval_AcquireThread", gilstate::acquire_thread as *const ()),
        (c"PyThreadState_DeleteCurrent", gilstate::delete_current as *const ()),
    ];
    let addresses = all.into_iter().map(|(name, to)| {
        let found = find(name);
        (!found.is_null()).then_some((found as usize, to as usize))
    });
    addresses.collect()
}

/// As [`protect`]; says in a line why it cannot be.
pub(crate) fn protect_or_say() -> bool {
    let done = protect();
    if let Err(why) = &done {
        say_why_not(why);
    }
    done.is_ok()
}

fn say_why_not(why: &Why) {
    say(format!("libpep788: PyGILState_Ensure cannot be protected here: {why}\n").as_bytes());
}

/// Whether the environment asks for it. What is neither yes nor no is said, once, in a process that has a Python.
fn is_asked_for() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let asked = settings::gilstate();
    // Relaxed: a line said twice does no harm.
    if asked.is_none() && has_python() && !SAID.swap(true, Ordering::Relaxed) {
        settings::complain_of_gilstate();
    }
    asked == Some(true)
}

fn has_python() -> bool {
    !python::address_of(c"PyGILState_Ensure").is_null()
}

/// When the library is loaded: then, as a rule, nobody else runs yet. If there is no Python yet, it is waited for.
/// The loader's lock is held, so no Python code may be run.
extern "C" fn at_load() {
    let is_asked_for = is_asked_for();
    if has_python() {
        settings::complain_of_names();
    }
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    if is_asked_for {
        arrival::ask(!has_python());
    }
    if is_asked_for && has_python() {
        match python::get().ok_or(Why::NoPython).and_then(switch_on) {
            Ok(()) | Err(Why::NoPython) => {}
            Err(why) => {
                TRIED.store(true, Ordering::Relaxed);
                say_why_not(&why);
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
