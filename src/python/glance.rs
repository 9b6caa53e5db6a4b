//! What the commonest calls need to know of CPython, for as few instructions as possible.

use std::sync::atomic::{AtomicPtr, Ordering};

use super::api::{Api, PyInterpreterState, PyThreadState};
use super::current::PER_THREAD;
use super::native;

/// Where a thread state has its interpreter, in words: so in every version up to now, and looked at
/// before it is believed.
const INTERPRETER: usize = 2;

/// There is one once calls are known to be served by this library, in a CPython whose thread
/// states are as expected, and guards not to be traced. Until then, and for whatever is out of the common, there are the ways
/// that need not know.
static GLANCE: AtomicPtr<Api> = AtomicPtr::new(std::ptr::null_mut());

#[derive(Clone, Copy)]
pub(crate) struct Glance(&'static Api);

impl Glance {
    #[inline(always)]
    pub(crate) fn get() -> Option<Glance> {
        // Acquire: pairs with `learn`. SAFETY: NULL, or what that stored.
        unsafe { GLANCE.load(Ordering::Acquire).as_ref() }.map(Glance)
    }

    /// The same again, for functions that are called with one, but would not keep it in a register
    /// for that.
    ///
    /// # Safety
    /// This thread had one from [`Glance::get`].
    #[inline(always)]
    pub(crate) unsafe fn again() -> Glance {
        // SAFETY: once set, it stays. Relaxed: `get` acquired.
        unsafe { Glance(&*GLANCE.load(Ordering::Relaxed)) }
    }

    /// For a caller that knows that guards are not traced.
    ///
    /// # Safety
    /// `state` is attached to the calling thread.
    #[inline]
    pub(crate) unsafe fn learn(py: &'static Api, state: *mut PyThreadState) {
        if GLANCE.load(Ordering::Relaxed).is_null() {
            // SAFETY: as above.
            unsafe { look(py, state) };
        }
    }

    /// Whether CPython keeps the attached thread state per thread.
    #[inline(always)]
    pub(crate) fn is_per_thread(&self) -> bool {
        self.0.version >= PER_THREAD
    }

    /// The attached thread state: of this thread, or, unless CPython keeps it per thread, of any. NULL:
    /// none.
    #[inline(always)]
    pub(crate) fn current(&self) -> *mut PyThreadState {
        // SAFETY: may be called by any thread at any time.
        unsafe { self.0.unchecked_current() }
    }

    /// Whether that, which is not NULL, is attached to this thread, and known to `PyGILState`.
    /// `per_thread` is what [`Glance::is_per_thread`] says.
    #[inline(always)]
    pub(crate) fn is_ours(&self, current: *mut PyThreadState, per_thread: bool) -> bool {
        // SAFETY: reads thread-local storage only.
        per_thread || current == unsafe { self.0.PyGILState_GetThisThreadState() }
    }

    /// Whether a thread state is of this interpreter.
    ///
    /// # Safety
    /// `state` is alive: it is attached to this thread, say.
    #[inline(always)]
    pub(crate) unsafe fn is_of(
        &self,
        state: *mut PyThreadState,
        interpreter: *mut PyInterpreterState,
    ) -> bool {
        // SAFETY: alive, says the caller, and `learn` looked where it has its interpreter.
        unsafe { *state.cast::<*mut PyInterpreterState>().add(INTERPRETER) == interpreter }
    }

    pub(crate) fn api(&self) -> &'static Api {
        self.0
    }
}

/// # Safety
/// `state` is attached to the calling thread.
#[cold]
unsafe fn look(py: &'static Api, state: *mut PyThreadState) {
    // SAFETY: a thread state is longer than this; what is read is only compared.
    let as_expected = unsafe {
        let found = *state.cast::<*mut PyInterpreterState>().add(INTERPRETER);
        found == py.PyThreadState_GetInterpreter(state)
    };
    if as_expected && native(py).is_none() {
        // Release: the API is complete.
        GLANCE.store(std::ptr::from_ref(py).cast_mut(), Ordering::Release);
    }
}
