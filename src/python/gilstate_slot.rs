//! Changes the thread state that `PyGILState` knows for a thread, for the time of an Ensure.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::api::{Api, PyThreadState};
use super::current::PER_THREAD;
use crate::os::{set_value, value_of, Key};

/// What `PyGILState` takes for this thread's thread state, changed for the time of an Ensure.
///
/// From 3.12 on attaching a thread state changes it. Before 3.12 it stays the first thread state that the thread ever
/// had. So within an Ensure of another interpreter, `PyGILState_Ensure` would wait for the GIL that its own thread
/// holds, and a debug build would end the process. CPython keeps it under a thread-specific key that no function
/// tells: see [`gilstate_key`].
#[derive(Clone, Copy)]
pub(crate) struct GilstateSlot {
    before: NonNull<PyThreadState>,
    key: Key,
}

impl GilstateSlot {
    /// Makes `state` the thread state that `PyGILState` knows for this thread. Returns `None` if there is nothing to
    /// change, or (never seen) if there is no such key.
    pub(crate) fn replace(py: &Api, state: *mut PyThreadState) -> Option<GilstateSlot> {
        if py.version >= PER_THREAD {
            return None;
        }
        let key = gilstate_key(py)?;
        // CPython put the value there, for this thread.
        let before = NonNull::new(value_of(key).cast::<PyThreadState>())?;
        let changed = before.as_ptr() != state && set_value(key, state.cast());
        changed.then_some(GilstateSlot { before, key })
    }

    pub(crate) fn restore(self) {
        // The key had this value, for this thread, when the slot was made.
        set_value(self.key, self.before.as_ptr().cast());
    }
}

/// Up to 3.11: returns the key under which each thread has what `PyGILState` takes for its thread state. Returns
/// `None` if this thread has nothing there, or (never seen) if there is no such key.
pub(super) fn gilstate_key(py: &Api) -> Option<Key> {
    /// The key that worked last, plus one. A new run of the runtime may get another key.
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    const KEYS_MAX: Key = 1088;

    // SAFETY: the call only reads thread-local storage.
    let own = unsafe { py.PyGILState_GetThisThreadState() };
    if own.is_null() {
        return None;
    }
    // Relaxed: this is a number to try first. Nothing is published with it.
    let known = KNOWN.load(Ordering::Relaxed).checked_sub(1).map(|key| key as Key);
    let found = known.into_iter().chain(0..KEYS_MAX).find(|key| {
        // A value is changed only where it is `own`, to see whether CPython notices, and it is put back.
        if value_of(*key).cast() != own {
            return false;
        }
        // SAFETY: the call only reads thread-local storage.
        let noticed = set_value(*key, core::ptr::null_mut())
            && unsafe { py.PyGILState_GetThisThreadState() }.is_null();
        set_value(*key, own.cast());
        noticed
    })?;
    KNOWN.store(found as usize + 1, Ordering::Relaxed);
    Some(found)
}

/// A thread state that `PyGILState` knows for this thread, to attach it later, when `PyGILState` may have forgotten it.
#[derive(Clone, Copy)]
pub(crate) struct GilstateMemory {
    state: NonNull<PyThreadState>,
    key: Key,
}

/// Why `PyGILState` may have forgotten a thread state. CPython does not tell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// From 3.12 on, attaching a thread state displaces the one that `PyGILState` knows, and deleting it leaves none.
    ByCPython,
    /// The thread ends. The C library empties the values of keys, one after the other.
    ByTheCLibrary,
}

impl GilstateMemory {
    /// Returns `None` if `PyGILState` knows no thread state of this thread, or does not use a key for that.
    #[cold]
    pub(crate) fn of_this_thread(py: &Api) -> Option<GilstateMemory> {
        let key = gilstate_key(py)?;
        // SAFETY: this reads thread-local storage only.
        let state = NonNull::new(unsafe { py.PyGILState_GetThisThreadState() })?;
        Some(GilstateMemory { state, key })
    }

    pub(crate) fn state(&self) -> *mut PyThreadState {
        self.state.as_ptr()
    }

    pub(crate) fn is_of(&self, state: *mut PyThreadState) -> bool {
        self.state.as_ptr() == state
    }

    /// Attaches the thread state, and returns it. `PyGILState` knows it from then on: CPython tells it while attaching, if
    /// CPython was what made it forget.
    ///
    /// # Safety
    /// The memory is of this thread and of this run of Python. The interpreter is held, and nothing is attached.
    #[cold]
    pub(crate) unsafe fn attach(&self, py: &Api, forgotten: Forgotten) -> *mut PyThreadState {
        let state = self.state.as_ptr();
        // SAFETY: the thread state is own, by this function's contract, and the key has thread states of this thread.
        unsafe {
            let by_c_library = forgotten == Forgotten::ByTheCLibrary;
            if by_c_library && py.PyGILState_GetThisThreadState().is_null() {
                set_value(self.key, state.cast());
            }
            py.PyEval_RestoreThread(state);
        }
        state
    }
}
