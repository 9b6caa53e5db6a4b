//! What the commonest calls need to know of CPython, found with as few instructions as possible.

use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, Ordering};

use super::api::{Api, PyInterpreterState, PyThreadState, UncheckedCurrent};
use super::current::{current_word, PER_THREAD};
use super::gilstate_slot::gilstate_key;
use super::native::native;
use super::word;
use crate::os::{value_of, words};
use crate::support::kept::Kept;

/// Where a thread state has its interpreter, in words: `interp` of `struct _ts`, after `prev` and `next`
/// (`Include/cpython/pystate.h`: 3.9.18 line 54, 3.10.13 line 65, 3.11.7 line 87, 3.12.1 line 120, 3.13.0 line 64,
/// 3.14.10 and 3.15.2 line 71). The library compares it with what CPython says before it believes it.
const INTERPRETER: usize = 2;

/// What the library has learned of this process's CPython.
pub(crate) struct Known {
    api: &'static Api,
    /// A copy of the function in `api`, so that it is nearer.
    unchecked_current: UncheckedCurrent,
    /// From 3.12 on: where the attached thread state may be read, see `os/words.rs`. Zeros if that is not known.
    places: [isize; 2],
    /// Up to 3.11: the key under which a thread has what `PyGILState` takes for its thread state. While it is not
    /// known, this is a key under which no thread has anything.
    key: AtomicU32,
}

const NO_KEY: u32 = u32::MAX;

/// This is set once three things are known: this library serves the calls, the structures of CPython are as expected,
/// and guards are not traced. Until then, and in uncommon cases, the library takes the ways that need none of this.
static GLANCE: AtomicPtr<Known> = AtomicPtr::new(core::ptr::null_mut());

/// The one of the two `places` in [`Known`] that is right. 0 if that is not known.
static PLACE: AtomicIsize = AtomicIsize::new(0);

/// Up to 3.11: where CPython has the thread state that holds the GIL. NULL if that is not known.
static HOLDER: AtomicPtr<AtomicPtr<PyThreadState>> = AtomicPtr::new(core::ptr::null_mut());

#[derive(Clone, Copy)]
pub(crate) struct Glance(&'static Known);

impl Glance {
    #[inline(always)]
    pub(crate) fn get() -> Option<Glance> {
        // SAFETY: NULL, or what `learn` stored.
        // Acquire: pairs with the Release store in `look`, which `learn` calls.
        unsafe { GLANCE.load(Ordering::Acquire).as_ref() }.map(Glance)
    }

    /// Returns the same again. For functions whose caller has a [`Glance`] already, so that they need not keep it in
    /// a register.
    ///
    /// # Safety
    /// This thread had a [`Glance`] from [`Glance::get`].
    #[inline(always)]
    pub(crate) unsafe fn again() -> Glance {
        // SAFETY: this thread had a `Glance`, by this function's contract, and once set, it stays.
        // Relaxed: `get` acquired.
        unsafe { Glance(&*GLANCE.load(Ordering::Relaxed)) }
    }

    /// Learns what a [`Glance`] needs, if it is not known yet. For a caller that knows that guards are not traced.
    ///
    /// # Safety
    /// `state` is attached to the calling thread.
    #[inline]
    pub(crate) unsafe fn learn(py: &'static Api, state: *mut PyThreadState) {
        let known = Glance::get().is_some_and(|glance| {
            holder().is_none() || glance.0.key.load(Ordering::Relaxed) != NO_KEY
        });
        if !known {
            // SAFETY: `state` is attached, by this function's contract.
            unsafe { look(py, state) };
        }
    }

    /// Forgets the key, because `PyGILState` has another key in a new run of the runtime.
    pub(crate) fn forget_run() {
        if let Some(glance) = Glance::get() {
            // Relaxed: a thread that still uses the old key finds nothing under it that is attached.
            glance.0.key.store(NO_KEY, Ordering::Relaxed);
        }
    }

    pub(crate) fn api(&self) -> &'static Api {
        self.0.api
    }

    /// Chooses, of the two places, the one that is empty when nothing is attached. For a thread with nothing
    /// attached.
    #[inline(never)]
    fn choose_place(&self) {
        if let Some(place) = empty_one(self.0.places) {
            // Release: pairs with `attached_word`. See `look`.
            PLACE.store(place, Ordering::Release);
        }
    }

    /// Returns what is attached to this thread, or NULL if nothing is. Returns `None` if that is not known at a
    /// glance. A thread state that is returned is known to `PyGILState` as well.
    #[inline(always)]
    pub(crate) fn attached(&self) -> Option<*mut PyThreadState> {
        match holder() {
            None => {
                // SAFETY: any thread may make this call at any time.
                let current = unsafe { (self.0.unchecked_current)() };
                if current.is_null() {
                    self.choose_place();
                }
                Some(current)
            }
            Some(holder) => {
                // Relaxed: see `forget_run`.
                let ours = || value_of(self.0.key.load(Ordering::Relaxed));
                (holder.is_null() || holder == ours().cast()).then_some(holder)
            }
        }
    }
}

/// Returns the one of two places that has nothing, if the other one has something. A place is from [`word::find`], or
/// 0.
pub(super) fn empty_one(places: [isize; 2]) -> Option<isize> {
    // SAFETY: a place is from `find` unless it is 0, and 0 is not read.
    let is_empty = |place: &isize| *place != 0 && unsafe { words::read(*place) }.is_null();
    let mut empty = places.into_iter().filter(is_empty);
    empty.next().filter(|_| empty.next().is_none())
}

/// Returns what is attached to this thread, or NULL if nothing is, read where CPython has it. Returns `None` if that
/// place is not known; then a [`Glance`] may tell. If the place is known, there is a [`Glance`] too.
#[inline(always)]
pub(crate) fn attached_word() -> Option<*mut PyThreadState> {
    // Acquire: pairs with the Release stores of `PLACE`. The glance was stored before the place, so there is a
    // glance.
    let place = PLACE.load(Ordering::Acquire);
    // SAFETY: `look` found this place.
    (place != 0).then(|| unsafe { words::read(place) }.cast())
}

/// Up to 3.11: returns the thread state that is attached to any thread, or NULL if none is. Returns `None` if that is
/// not known, or if each thread has its own. If it is known, there is a [`Glance`] too.
#[inline(always)]
pub(crate) fn holder() -> Option<*mut PyThreadState> {
    // SAFETY: NULL, or a word of CPython's.
    // Acquire: pairs with the Release store in `look`. The glance was stored before the word, so there is a glance.
    let word = unsafe { HOLDER.load(Ordering::Acquire).as_ref() };
    // Relaxed: the value is compared with what this thread wrote there, or did not write.
    word.map(|word| word.load(Ordering::Relaxed))
}

/// Returns whether a thread state belongs to this interpreter.
///
/// # Safety
/// The thread state [has its interpreter where it is expected](has_interpreter_where_expected), as it does where
/// there is a [`Glance`]. `state` is alive: for example, it is attached to this thread.
#[inline(always)]
pub(crate) unsafe fn is_of(
    state: *mut PyThreadState,
    interpreter: *mut PyInterpreterState,
) -> bool {
    // SAFETY: `state` is alive and has its interpreter there, by this function's contract: `look` has looked there.
    unsafe { *state.cast::<*mut PyInterpreterState>().add(INTERPRETER) == interpreter }
}

/// Returns whether [`is_of`] is right in this CPython.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn has_interpreter_where_expected(py: &Api, state: *mut PyThreadState) -> bool {
    // SAFETY: a thread state is longer than this. What is read is only compared.
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
    // SAFETY: attached, by this function's contract.
    if !unsafe { has_interpreter_where_expected(py, state) } || native(py).is_some() {
        return;
    }
    let (mut places, mut holder, mut key) = (None, None, NO_KEY);
    if py.version >= PER_THREAD {
        // SAFETY: attached, by this function's contract.
        places = unsafe { word::find(py, state) };
    } else {
        // SAFETY: attached, by this function's contract.
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
    // Release: pairs with `Glance::get`. What it points to is complete.
    GLANCE.store(core::ptr::from_ref(known).cast_mut(), Ordering::Release);
    // Release, both: they pair with `attached_word` and `holder`, and come after the glance.
    if let [place, 0] = known.places {
        PLACE.store(place, Ordering::Release);
    }
    if let Some(holder) = holder {
        HOLDER.store(core::ptr::from_ref(holder).cast_mut(), Ordering::Release);
    }
}
