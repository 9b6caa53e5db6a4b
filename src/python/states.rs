//! Makes, deletes and counts in thread states, which works differently in each version of CPython.
//!
//! The library makes thread states without `PyThreadState_New`, which is redirected. It also knows where a thread
//! state counts the calls of `PyGILState_Ensure` that it is in.

use core::ffi::{c_int, c_void, CStr};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::api::{Api, PyInterpreterState, PyThreadState};
use super::find::{self, Finder};
use super::layouts;
#[cfg(pep788_redirects)]
use crate::patch::original;
use crate::support::kept::Kept;

/// The functions that `PyThreadState_New` consists of.
enum Parts {
    /// The first function makes a thread state. The second one binds it to the thread.
    TwoSteps(&'static CStr, &'static CStr),
    /// One function does both. Its second argument says what the thread state is for. Like `PyThreadState_New`, the
    /// library passes 0, which means that this is not known.
    One(&'static CStr),
}

fn parts(version: u16) -> Option<Parts> {
    match version {
        0x0309 | 0x030a => {
            Some(Parts::TwoSteps(c"_PyThreadState_Prealloc", c"_PyThreadState_Init"))
        }
        0x030b => Some(Parts::TwoSteps(c"_PyThreadState_Prealloc", c"_PyThreadState_SetCurrent")),
        0x030c => Some(Parts::TwoSteps(c"_PyThreadState_New", c"_PyThreadState_Bind")),
        0x030d..=0x030f => Some(Parts::One(c"_PyThreadState_NewBound")),
        _ => None,
    }
}

type Make = unsafe extern "C" fn(*mut PyInterpreterState) -> *mut PyThreadState;
type Bind = unsafe extern "C" fn(*mut PyThreadState);
type IsFinalizing = unsafe extern "C" fn() -> c_int;
type MakeBound = unsafe extern "C" fn(*mut PyInterpreterState, c_int) -> *mut PyThreadState;

#[derive(Clone, Copy)]
enum Maker {
    TwoSteps(Make, Bind),
    One(MakeBound),
}

/// How the library does the work of `PyThreadState_DeleteCurrent`, because that function is redirected. The work is
/// one step, so that the next thread that has the GIL finds the thread state gone.
#[derive(Clone, Copy)]
enum Delete {
    /// Up to 3.12: `PyThreadState_DeleteCurrent` only calls this function, with the thread state as the argument.
    Given(Bind),
    /// A copy of `PyThreadState_DeleteCurrent`.
    #[cfg(pep788_redirects)]
    Original(unsafe extern "C" fn()),
}

/// What is known of thread states in the version that runs.
pub(crate) struct States {
    counter: usize,
    maker: Maker,
    is_finalizing: IsFinalizing,
    delete: Option<Delete>,
}

/// Why nothing is known of thread states.
pub(crate) enum Why {
    TooNew,
    Missing(&'static CStr),
}

static STATES: Kept<States> = Kept::new();

/// The counter of [`STATES`], for callers that know that [`look`] has been called.
static COUNTER: AtomicUsize = AtomicUsize::new(0);

/// Looks up everything about thread states. Must be called before the functions below.
pub(crate) fn look(py: &'static Api) -> Result<(), Why> {
    let states = of_version(py.version, find::address_of)?;
    COUNTER.store(states.counter, Ordering::Relaxed);
    STATES.keep(states);
    Ok(())
}

/// Looks up what the library needs for a version. It only looks at where functions are, so it may be used for a
/// CPython that is not complete yet.
pub(crate) fn of_version(version: u16, find: Finder) -> Result<States, Why> {
    let counter = layouts::counter(version).ok_or(Why::TooNew)?;
    let find = |name: &'static CStr| -> Result<*mut c_void, Why> {
        let found = find(name);
        if found.is_null() {
            Err(Why::Missing(name))
        } else {
            Ok(found)
        }
    };
    // SAFETY: these functions have these signatures in the versions in which they are looked for.
    let maker = unsafe {
        match parts(version).ok_or(Why::TooNew)? {
            Parts::TwoSteps(make, bind) => Maker::TwoSteps(
                core::mem::transmute::<*mut c_void, Make>(find(make)?),
                core::mem::transmute::<*mut c_void, Bind>(find(bind)?),
            ),
            Parts::One(make) => {
                Maker::One(core::mem::transmute::<*mut c_void, MakeBound>(find(make)?))
            }
        }
    };
    let name = if version < 0x030d { c"_Py_IsFinalizing" } else { c"Py_IsFinalizing" };
    // SAFETY: both functions have this signature.
    let is_finalizing = unsafe { core::mem::transmute::<*mut c_void, IsFinalizing>(find(name)?) };
    let delete = if version < 0x030d {
        let found = find(c"_PyThreadState_DeleteCurrent").ok();
        // SAFETY: the function has this signature in these versions.
        found.map(|it| Delete::Given(unsafe { core::mem::transmute::<*mut c_void, Bind>(it) }))
    } else {
        original(find(c"PyThreadState_DeleteCurrent")?)
    };
    Ok(States { counter, maker, is_finalizing, delete })
}

#[cfg(pep788_redirects)]
fn original(entry: *mut c_void) -> Option<Delete> {
    let copy = original::of(entry)?;
    // SAFETY: the copy does what that function does, and that function has this signature.
    Some(Delete::Original(unsafe { core::mem::transmute::<usize, unsafe extern "C" fn()>(copy) }))
}

#[cfg(not(pep788_redirects))]
fn original(_: *mut c_void) -> Option<Delete> {
    None
}

#[inline(always)]
pub(crate) fn get() -> &'static States {
    STATES.get().unwrap_or_else(look_late)
}

/// Completes a CPython that came late, at the first call that comes to the library.
#[cold]
fn look_late() -> &'static States {
    if let Some(late) = find::late() {
        (late.complete)();
    }
    STATES.get().unwrap_or_else(|| find::fatal("PyGILState_Ensure", "not redirected"))
}

/// Returns where a thread state has its count, in bytes. For callers that saw a thread state by
/// [`sight`](super::sight).
#[inline(always)]
pub(crate) fn counter_in_sight() -> usize {
    // Relaxed: the value was set before `sight` learned anything, and `sight` published what it learned.
    COUNTER.load(Ordering::Relaxed)
}

/// Returns what is known of thread states, if [`look`] has been called.
pub(crate) fn known() -> Option<&'static States> {
    STATES.get()
}

/// Returns whether Python finalizes, as far as that can be told, or is gone.
pub(crate) fn are_going_or_gone(py: &Api) -> bool {
    // SAFETY: `Py_IsInitialized` needs no thread state.
    known().is_some_and(States::are_going) || unsafe { py.Py_IsInitialized() } == 0
}

impl States {
    /// Makes a thread state, as `PyThreadState_New` does.
    ///
    /// # Safety
    /// The interpreter does not end meanwhile.
    pub(crate) unsafe fn make(&self, interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
        // SAFETY: the interpreter does not end meanwhile, by this function's contract. The functions are CPython's,
        // and they have these types.
        unsafe {
            match self.maker {
                Maker::One(make) => make(interpreter, 0),
                Maker::TwoSteps(make, bind) => {
                    let state = make(interpreter);
                    if !state.is_null() {
                        bind(state);
                    }
                    state
                }
            }
        }
    }

    /// Does what `PyThreadState_DeleteCurrent` does. Returns `false`, and does nothing, if there is no function for
    /// it.
    ///
    /// # Safety
    /// The thread state is attached to the calling thread, and cleared.
    pub(crate) unsafe fn delete_current(&self, state: *mut PyThreadState) -> bool {
        // SAFETY: attached and cleared, by this function's contract. The functions are CPython's, and they have these
        // types.
        unsafe {
            match self.delete {
                Some(Delete::Given(delete)) => delete(state),
                #[cfg(pep788_redirects)]
                Some(Delete::Original(delete)) => delete(),
                None => return false,
            }
        }
        true
    }

    /// Returns whether Python is being finalized. If it is not, and no thread is let in, the caller may be
    /// `Py_Initialize`, for the next run.
    pub(crate) fn are_going(&self) -> bool {
        // SAFETY: any thread may make this call at any time.
        unsafe { (self.is_finalizing)() != 0 }
    }

    /// Returns where a thread state has its count.
    ///
    /// # Safety
    /// `state` is the calling thread's own, and exists. The result is good as long as the thread state exists.
    pub(crate) unsafe fn count(&self, state: *mut PyThreadState) -> *mut c_int {
        // SAFETY: the count is within the thread state.
        unsafe { state.byte_add(self.counter).cast() }
    }
}
