//! What the library knows of the thread states of each version: how to make one without `PyThreadState_New`, which is
//! redirected, and where one counts the calls of `PyGILState_Ensure` that it is in.

use std::ffi::{c_int, c_void, CStr};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::api::{Api, PyInterpreterState, PyThreadState};
use super::find::{self, Finder};
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
use crate::patch::original;
use crate::support::kept::Kept;

/// What `PyThreadState_New` consists of.
enum Parts {
    /// Makes one, and binds it to the thread.
    TwoSteps(&'static CStr, &'static CStr),
    /// Does both. Its second argument is what the thread state is for; 0 is not known, as there.
    One(&'static CStr),
}

/// In bytes. It is `gilstate_counter` of `struct _ts` in `Include/cpython/pystate.h`, which pybind11 and cffi write too: so it
/// does not move within a minor version. At the end of each line, where it is in that file.
fn counter(version: u16) -> Option<usize> {
    match version {
        0x0309 => Some(160), // 3.9.18: line 92
        0x030a => Some(160), // 3.10.13: line 103
        0x030b => Some(136), // 3.11.7: line 129
        0x030c => Some(120), // 3.12.1: line 178
        0x030d => Some(136), // 3.13.0: line 142
        0x030e => Some(136), // 3.14.10: line 149
        0x030f => Some(160), // 3.15.2: line 162
        _ => None,
    }
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

/// How `PyThreadState_DeleteCurrent`, which is redirected, does it: in one step, so that whoever has the GIL next finds
/// the thread state gone.
#[derive(Clone, Copy)]
enum Delete {
    /// It is only this one, with the thread state for an argument (up to 3.12).
    Given(Bind),
    /// A copy of it.
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Original(unsafe extern "C" fn()),
}

/// Thread states of the version that runs.
pub(crate) struct States {
    counter: usize,
    maker: Maker,
    is_finalizing: IsFinalizing,
    delete: Option<Delete>,
}

/// Why they are not known.
pub(crate) enum Why {
    TooNew,
    Missing(&'static CStr),
}

static STATES: Kept<States> = Kept::new();

/// Of [`STATES`], for callers that know that they have been looked at.
static COUNTER: AtomicUsize = AtomicUsize::new(0);

/// Before the first of what follows.
pub(crate) fn look(py: &'static Api) -> Result<(), Why> {
    let states = of_version(py.version, find::address_of)?;
    COUNTER.store(states.counter, Ordering::Relaxed);
    STATES.keep(states);
    Ok(())
}

/// Looks at nothing but where functions are: so it may be asked of a CPython that is not complete yet.
pub(crate) fn of_version(version: u16, find: Finder) -> Result<States, Why> {
    let counter = counter(version).ok_or(Why::TooNew)?;
    let find = |name: &'static CStr| -> Result<*mut c_void, Why> {
        let found = find(name);
        if found.is_null() {
            Err(Why::Missing(name))
        } else {
            Ok(found)
        }
    };
    // SAFETY: the signatures that these have in the versions that they are looked for in.
    let maker = unsafe {
        match parts(version).ok_or(Why::TooNew)? {
            Parts::TwoSteps(make, bind) => Maker::TwoSteps(
                std::mem::transmute::<*mut c_void, Make>(find(make)?),
                std::mem::transmute::<*mut c_void, Bind>(find(bind)?),
            ),
            Parts::One(make) => {
                Maker::One(std::mem::transmute::<*mut c_void, MakeBound>(find(make)?))
            }
        }
    };
    let name = if version < 0x030d { c"_Py_IsFinalizing" } else { c"Py_IsFinalizing" };
    // SAFETY: the signature that both have.
    let is_finalizing = unsafe { std::mem::transmute::<*mut c_void, IsFinalizing>(find(name)?) };
    let delete = if version < 0x030d {
        let found = find(c"_PyThreadState_DeleteCurrent").ok();
        // SAFETY: the signature that it has in these versions.
        found.map(|it| Delete::Given(unsafe { std::mem::transmute::<*mut c_void, Bind>(it) }))
    } else {
        original(find(c"PyThreadState_DeleteCurrent")?)
    };
    Ok(States { counter, maker, is_finalizing, delete })
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn original(entry: *mut c_void) -> Option<Delete> {
    let copy = original::of(entry)?;
    // SAFETY: it does what that function does, which has this signature.
    Some(Delete::Original(unsafe { std::mem::transmute::<usize, unsafe extern "C" fn()>(copy) }))
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn original(_: *mut c_void) -> Option<Delete> {
    None
}

#[inline(always)]
pub(crate) fn get() -> &'static States {
    STATES.get().unwrap_or_else(look_late)
}

/// CPython came late, and this is the first call that comes to the library.
#[cold]
fn look_late() -> &'static States {
    if let Some(late) = find::late() {
        (late.complete)();
    }
    STATES.get().unwrap_or_else(|| find::fatal("PyGILState_Ensure", "not redirected"))
}

/// Where a thread state has its count, in bytes: for callers that saw a thread state by [`sight`](super::sight).
#[inline(always)]
pub(crate) fn counter_in_sight() -> usize {
    // Relaxed: set before that learned anything, which it published.
    COUNTER.load(Ordering::Relaxed)
}

/// Where they have been looked at.
pub(crate) fn known() -> Option<&'static States> {
    STATES.get()
}

impl States {
    /// As `PyThreadState_New`.
    ///
    /// # Safety
    /// The interpreter does not end meanwhile.
    pub(crate) unsafe fn make(&self, interpreter: *mut PyInterpreterState) -> *mut PyThreadState {
        // SAFETY: the interpreter does not end meanwhile, says the caller; the functions are CPython's, of these types.
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

    /// As `PyThreadState_DeleteCurrent`. `false`: not here, as that cannot be had.
    ///
    /// # Safety
    /// The thread state is attached to the calling thread, and cleared.
    pub(crate) unsafe fn delete_current(&self, state: *mut PyThreadState) -> bool {
        // SAFETY: attached and cleared, says the caller; the functions are CPython's, of these types.
        unsafe {
            match self.delete {
                Some(Delete::Given(delete)) => delete(state),
                #[cfg(all(
                    target_os = "linux",
                    any(target_arch = "x86_64", target_arch = "aarch64")
                ))]
                Some(Delete::Original(delete)) => delete(),
                None => return false,
            }
        }
        true
    }

    /// Whether Python is being finalized. Where it is not, and nobody is let in, it may be `Py_Initialize` that
    /// asks, for the next run.
    pub(crate) fn are_going(&self) -> bool {
        // SAFETY: may be called by any thread at any time.
        unsafe { (self.is_finalizing)() != 0 }
    }

    /// The count in a thread state.
    ///
    /// # Safety
    /// `state` is the calling thread's own, and exists. The result is good for as long as that.
    pub(crate) unsafe fn count(&self, state: *mut PyThreadState) -> *mut c_int {
        // SAFETY: within the thread state.
        unsafe { state.byte_add(self.counter).cast() }
    }
}
