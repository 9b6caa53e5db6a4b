//! Switches the seatbelt on, if the program or its environment asks for that.
//!
//! The library never switches it on by itself: see [`protect`].

use alloc::format;
use alloc::vec::Vec;
use core::ffi::c_int;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use super::choose::choose_interpreter;
use super::copies::{self, set_hangs, ChooseInterpreter, SetHangs};
use super::{ensure, release, scopes, watched};
#[cfg(pep788_redirects)]
use super::{imports, views};
use crate::exit::calls::{are_protected, set_protected};
use crate::interpreter::first_use::of;
use crate::os::say;
use crate::patch::patch;
use crate::python::{self, states, Api, PyInterpreterState};
use crate::support::settings;
use crate::support::sync::{lock, Mutex, MutexGuard};
use crate::thread::attached::attached;
use crate::watch::file::{is_only_watched, is_watched, note_protection, set_only_watched};

/// Why the seatbelt cannot be switched on.
pub(crate) enum Why {
    NoPython,
    States(states::Why),
    Patch(patch::Why),
    /// CPython came late, and the library cannot make the loader tell of that.
    #[cfg(pep788_redirects)]
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
            #[cfg(pep788_redirects)]
            Why::Unannounced(patch::Why::Taken) => f.write_str(
                "Python came late, and somebody else has the loader tell of that; debuggers do, \
                 unless they are attached later",
            ),
            #[cfg(pep788_redirects)]
            Why::Unannounced(why) => {
                write!(f, "Python came late, and the loader cannot be made to tell of it: {why}")
            }
        }
    }
}

/// Lets the library serve CPython's two functions from now on, for every caller. Threads may be inside the two
/// functions meanwhile. Any thread may call this.
pub(crate) fn protect() -> Result<(), Why> {
    let py = python::get().ok_or(Why::NoPython)?;
    switch_on(py)?;
    let state = attached(py);
    if !state.is_null() {
        // This installs the exit callback, and the exit waits in that callback. So callbacks that are registered
        // from now on are called before the wait.
        // SAFETY: `state` is attached. A refusal means that it is too late, or comes again with the first call.
        let _ = unsafe { of(py, state) };
    }
    Ok(())
}

static SWITCH: Mutex<()> = Mutex::new(());

/// Holds the switch for the time of a fork, so that the child finds the seatbelt either on or off.
pub(crate) fn hold_switch() -> MutexGuard<'static, ()> {
    lock(&SWITCH)
}

pub(crate) fn switch_on(py: &'static Api) -> Result<(), Why> {
    if are_protected() {
        return Ok(());
    }
    // These calls come before the lock, because a fork waits for that lock. They take the loader's lock, whose owner
    // may wait for a fork.
    states::look(py).map_err(Why::States)?;
    let redirections = redirections(python::address_of).ok_or(Why::NoPython)?;
    #[cfg(pep788_redirects)]
    let views = views::of_interpreter(py);
    let _one_at_a_time = lock(&SWITCH);
    if are_protected() {
        return Ok(());
    }
    if is_only_watched() {
        // The functions are redirected already.
        #[cfg(pep788_redirects)]
        views::redirect(views, patch::Runners::AnyThread);
        set_only_watched(false);
        set_protected(true);
        note_protection();
        return Ok(());
    }
    let copy = patch::redirect(&redirections, &for_copies(), patch::Runners::AnyThread)
        .map_err(Why::Patch)?;
    if let Some(copy) = copy {
        copies::hand_on_to(&copy);
    } else {
        #[cfg(pep788_redirects)]
        views::redirect(views, patch::Runners::AnyThread);
        #[cfg(pep788_redirects)]
        imports::redirect();
    }
    set_protected(true);
    note_protection();
    Ok(())
}

/// Redirects CPython's functions, so that calls are noted, and changes nothing else. This is called when the library
/// is loaded.
pub(crate) fn only_watch(py: &'static Api) -> Result<(), Why> {
    states::look(py).map_err(Why::States)?;
    let redirections = redirections(python::address_of).ok_or(Why::NoPython)?;
    let _one_at_a_time = lock(&SWITCH);
    set_only_watched(true);
    let copy = patch::redirect(&redirections, &for_copies(), patch::Runners::AnyThread);
    if matches!(copy, Ok(None)) {
        #[cfg(pep788_redirects)]
        imports::redirect();
    } else {
        // Another copy of the library has them, or it failed.
        set_only_watched(false);
    }
    copy.map(drop).map_err(Why::Patch)
}

/// Returns pairs of addresses: a function of CPython, and the function of the library that serves it.
pub(super) fn redirections(find: python::Finder) -> Option<Vec<(usize, usize)>> {
    let names = [
        c"PyGILState_Ensure",
        c"PyGILState_Release",
        c"PyThreadState_New",
        c"PyEval_AcquireThread",
        c"PyThreadState_DeleteCurrent",
    ];
    let functions = if is_watched() {
        [
            watched::ensure as *const (),
            watched::release as *const (),
            scopes::new as *const (),
            watched::acquire_thread as *const (),
            watched::delete_current as *const (),
        ]
    } else {
        [
            ensure::ensure as *const (),
            release::release as *const (),
            scopes::new as *const (),
            scopes::acquire_thread as *const (),
            scopes::delete_current as *const (),
        ]
    };
    let addresses = names.into_iter().zip(functions).map(|(name, to)| {
        let found = find(name);
        (!found.is_null()).then_some((found as usize, to as usize))
    });
    addresses.collect()
}

/// Does what [`protect`] does. If that fails, says in one line why.
pub(crate) fn protect_or_say() -> bool {
    let done = protect();
    if let Err(why) = &done {
        say_why_not(why);
    }
    done.is_ok()
}

pub(crate) fn say_why_not(why: &Why) {
    say(format!("libpep788: PyGILState_Ensure cannot be protected here: {why}\n").as_bytes());
}

/// Returns whether the environment asks for the seatbelt. If the value means neither yes nor no, this says so once,
/// in a process that has a Python.
pub(crate) fn is_asked_for() -> bool {
    static SAID: AtomicBool = AtomicBool::new(false);
    let asked = settings::gilstate();
    // Relaxed: a line that is said twice does no harm.
    if asked.is_none() && has_python() && !SAID.swap(true, Ordering::Relaxed) {
        settings::complain_of_gilstate();
    }
    asked == Some(true)
}

pub(crate) fn has_python() -> bool {
    !python::address_of(c"PyGILState_Ensure").is_null()
}

/// Whether switching on was tried, and a failure was reported.
pub(crate) static TRIED: AtomicBool = AtomicBool::new(false);

/// Switches the seatbelt on at the first call of the library, if the environment asks for that.
pub(crate) fn at_first_call() {
    // Relaxed: `protect` lets one thread in at a time, and a line that is said twice does no harm.
    if is_asked_for() && !are_protected() && !TRIED.swap(true, Ordering::Relaxed) {
        protect_or_say();
    }
}

/// Returns what this copy offers to other copies: the functions of `Serving`, in this order.
pub(super) fn for_copies() -> [usize; 2] {
    unsafe extern "C" fn hangs(hangs: c_int) {
        set_hangs(hangs != 0);
    }
    unsafe extern "C" fn choose(interpreter: *mut PyInterpreterState) -> c_int {
        let py = python::get_or_fatal("PyGILState_SetInterpreter");
        c_int::from(choose_interpreter(py, interpreter))
    }
    [hangs as SetHangs as usize, choose as ChooseInterpreter as usize]
}
