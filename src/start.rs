//! What the library does when it is loaded, and at its first call.

use core::sync::atomic::Ordering;

use crate::fork;
#[cfg(pep788_redirects)]
use crate::os::at_end;
use crate::os::at_load;
use crate::python::{self, Api};
#[cfg(pep788_redirects)]
use crate::seatbelt::arrival;
use crate::seatbelt::protect::{self, has_python, say_why_not, Why, TRIED};
use crate::support::kept::Kept;
use crate::support::settings;
#[cfg(pep788_redirects)]
use crate::watch::{self, phases::Phase};

/// Returns CPython's functions, for an exported function of that name. If there are none, ends the process with a
/// fatal error that says why.
#[inline]
pub(crate) fn api(function: &str) -> &'static Api {
    match READY.get() {
        Some(api) => api,
        None => begin(function),
    }
}

/// Prepares for forks, and calls [`protect::protect_or_say`]. CPython need not be there.
pub(crate) fn protect_or_say() -> bool {
    fork::watch();
    protect::protect_or_say()
}

/// CPython's functions, after the first call has done what it has to do.
static READY: Kept<&'static Api> = Kept::new();

/// Does the work of the first call. It is done twice if two threads come at once.
#[cold]
fn begin(function: &str) -> &'static Api {
    let py = python::get_or_fatal(function);
    // This comes before the first lock is taken.
    let is_told_of_forks = fork::watch();
    protect::at_first_call();
    if is_told_of_forks {
        READY.keep(py);
    }
    py
}

/// Runs when the library is loaded. As a rule no other thread runs yet. If there is no Python yet, the library
/// watches for one to come. The loader's lock is held, so this must not run Python code.
extern "C" fn at_load() {
    let is_asked_for = protect::is_asked_for();
    let has_python = has_python();
    #[cfg(pep788_redirects)]
    let is_watched = has_python && python::get().is_some_and(|py| watch::begin::begin(py.version));
    #[cfg(not(pep788_redirects))]
    let is_watched = false;
    if is_asked_for || is_watched {
        fork::watch();
    }
    if has_python {
        settings::complain_of_names();
    }
    #[cfg(pep788_redirects)]
    if is_asked_for {
        arrival::ask(!has_python);
    }
    if (is_asked_for || is_watched) && has_python {
        let begin = |py| {
            if is_asked_for {
                protect::switch_on(py)
            } else {
                protect::only_watch(py)
            }
        };
        match python::get().ok_or(Why::NoPython).and_then(begin) {
            Ok(()) | Err(Why::NoPython) => {}
            Err(why) => {
                TRIED.store(true, Ordering::Relaxed);
                say_why_not(&why);
            }
        }
    }
}

at_load!(at_load);

/// Notes that the process ends. This is done in its last moments, when libraries are taken down.
#[cfg(pep788_redirects)]
extern "C" fn at_end() {
    watch::phases::begins(Phase::ProcessEnds);
}

#[cfg(pep788_redirects)]
at_end!(at_end);
