//! What the commonest calls need to know of CPython, for as few instructions as possible.

use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, Ordering};

use super::api::{Api, PyInterpreterState, PyThreadState, UncheckedCurrent};
use super::current::{current_word, PER_THREAD};
use super::gilstate_slot::gilstate_key;
use super::native::native;
use super::word;
use crate::support::kept::Kept;

/// Where a thread state has its interpreter, in words: `interp` of `struct _ts`, after `prev` and `next`
/// (`Include/cpython/pystate.h`: 3.9.18 line 54, 3.10.13 line 65, 3.11.7 line 87, 3.12.1 line 120, 3.13.0 line 64, 3.14.10 and
/// 3.15.2 line 71). It is compared with what CPython says before it is believed.
const INTERPRETER: usize = 2;

/// What was learned of this process's CPython.
pub(crate) struct Known {
    api: &'static Api,
    /// Of `api`, to have it nearer.
    unchecked_current: UncheckedCurrent,
    /// From 3.12 on: where the attached thread state may be read, see `word.rs`; or zeros.
    places: [isize; 2],
    /// Up to 3.11: the key under which a thread has what `PyGILState` takes for its thread state;
    /// or, while it is not known, one under which no thread has anything.
    key: AtomicU32,
}

const NO_KEY: u32 = u32::MAX;

/// There is one once calls are known to be served by this library, in a CPython whose structures
/// are as expected, and guards not to be traced. Until then, and for whatever is out of the common,
/// there are the ways that need not know.
static GLANCE: AtomicPtr<Known> = AtomicPtr::new(std::ptr::null_mut());

/// The one of its `places` that is right. 0: not known.
static PLACE: AtomicIsize = AtomicIsize::new(0);

/// Up to 3.11: where CPython has the thread state that holds the GIL. NULL: not known.
static HOLDER: AtomicPtr<AtomicPtr<PyThreadState>> = AtomicPtr::new(std::ptr::null_mut());

#[derive(Clone, Copy)]
pub(crate) struct Glance(&'static Known);

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
        let known = Glance::get().is_some_and(|glance| {
            holder().is_none() || glance.0.key.load(Ordering::Relaxed) != NO_KEY
        });
        if !known {
            // SAFETY: `state` is attached, says the caller.
            unsafe { look(py, state) };
        }
    }

    /// With a new run of the runtime `PyGILState` has another key.
    pub(crate) fn forget_run() {
        if let Some(glance) = Glance::get() {
            // Relaxed: who still uses the old key finds nothing under it that is attached.
            glance.0.key.store(NO_KEY, Ordering::Relaxed);
        }
    }

    pub(crate) fn api(&self) -> &'static Api {
        self.0.api
    }

    /// Of two places, that which is empty when nothing is attached. For a thread with nothing attached.
    #[inline(never)]
    fn choose_place(&self) {
        if let Some(place) = empty_one(self.0.places) {
            // Release: see `look`.
            PLACE.store(place, Ordering::Release);
        }
    }

    /// What is attached to this thread; NULL for nothing. `None`: not known at a glance. What is
    /// attached is known to `PyGILState` as well.
    #[inline(always)]
    pub(crate) fn attached(&self) -> Option<*mut PyThreadState> {
        match holder() {
            None => {
                // SAFETY: may be called by any thread at any time.
                let current = unsafe { (self.0.unchecked_current)() };
                if current.is_null() {
                    self.choose_place();
                }
                Some(current)
            }
            Some(holder) => {
                // Relaxed: see `forget_run`. SAFETY: any key may be asked for.
                let ours =
                    || unsafe { libc::pthread_getspecific(self.0.key.load(Ordering::Relaxed)) };
                (holder.is_null() || holder == ours().cast()).then_some(holder)
            }
        }
    }
}

/// Of two places, from [`word::find`] or 0, the one that has nothing, if the other one has something.
pub(super) fn empty_one(places: [isize; 2]) -> Option<isize> {
    // SAFETY: from `find`, unless they are 0.
    let is_empty = |place: &isize| *place != 0 && unsafe { word::read(*place) }.is_null();
    let mut empty = places.into_iter().filter(is_empty);
    empty.next().filter(|_| empty.next().is_none())
}

/// What is attached to this thread, NULL for nothing, read where CPython has it. `None`: that is not
/// known, and a [`Glance`] may tell. If it is, then there is a [`Glance`] too.
#[inline(always)]
pub(crate) fn attached_word() -> Option<*mut PyThreadState> {
    // Acquire: there is a glance, as of before the place was told.
    let place = PLACE.load(Ordering::Acquire);
    // SAFETY: found in `look`.
    (place != 0).then(|| unsafe { word::read(place) })
}

/// Up to 3.11: the thread state that is attached to any thread, NULL for none. `None`: not known, or
/// each thread has its own. If it is known, then there is a [`Glance`] too.
#[inline(always)]
pub(crate) fn holder() -> Option<*mut PyThreadState> {
    // Acquire: there is a glance, as of before the word was told. SAFETY: NULL, or a word of
    // CPython's.
    let word = unsafe { HOLDER.load(Ordering::Acquire).as_ref() };
    // Relaxed: compared with what this thread wrote there, or not.
    word.map(|word| word.load(Ordering::Relaxed))
}

/// Whether a thread state is of this interpreter.
///
/// # Safety
/// It [has it where it is expected](has_interpreter_where_expected), as where there is a [`Glance`]; and `state` is alive: it is
/// attached to this thread, say.
#[inline(always)]
pub(crate) unsafe fn is_of(
    state: *mut PyThreadState,
    interpreter: *mut PyInterpreterState,
) -> bool {
    // SAFETY: alive, says the caller, and `look` looked where it has its interpreter.
    unsafe { *state.cast::<*mut PyInterpreterState>().add(INTERPRETER) == interpreter }
}

/// Whether [`is_of`] is right in this CPython.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn has_interpreter_where_expected(py: &Api, state: *mut PyThreadState) -> bool {
    // SAFETY: a thread state is longer than this; what is read is only compared.
    unsafe {
        let found = *state.cast::<*mut PyInterpreterState>().add(INTERPRETER);
        found == py.PyThreadState_GetInterpreter(state)
    }
}

/// # Safety
/// `state` is attached to the calling thread.
#[cold]
unsafe fn look(py: &'static Api, state: *mut PyThreadState) {
    static KNOWN: Kept<Known> = Kept::new();
    // SAFETY: attached, says the caller.
    if !unsafe { has_interpreter_where_expected(py, state) } || native(py).is_some() {
        return;
    }
    let (mut places, mut holder, mut key) = (None, None, NO_KEY);
    if py.version >= PER_THREAD {
        // SAFETY: attached, says the caller.
        places = unsafe { word::find(py, state) };
    } else {
        // SAFETY: attached, says the caller.
        let found = unsafe { current_word(py, state).zip(gilstate_key(py)) };
        let Some((word, found)) = found else { return };
        (holder, key) = (Some(word), found);
    }
    let known = KNOWN.get_or_keep(|| Known {
        api: py,
        unchecked_current: py.unchecked_current_itself(),
        places: places.unwrap_or_default(),
        key: AtomicU32::new(key),
    });
    known.key.store(key, Ordering::Relaxed);
    // Release: it is complete.
    GLANCE.store(std::ptr::from_ref(known).cast_mut(), Ordering::Release);
    // Release, both: after the glance.
    if let [place, 0] = known.places {
        PLACE.store(place, Ordering::Release);
    }
    if let Some(holder) = holder {
        HOLDER.store(std::ptr::from_ref(holder).cast_mut(), Ordering::Release);
    }
}
