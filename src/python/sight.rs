//! Reads a thread's own thread state and the attached one, for the seatbelt's commonest calls.
//!
//! [`Glance`](super::glance::Glance) does the same for PEP 788's calls. A `Glance` says more, and there is none where
//! CPython serves the calls itself, or where guards are traced.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::api::{Api, PyThreadState};
use super::current::{current_word, PER_THREAD};
use super::gilstate_slot::gilstate_key;
use super::{glance, word};
use crate::os::{value_of, words};

// Release and Acquire: they pair on `PLACE` and `HOLDER`. A thread that sees one of them set knows what the caller of
// `learn` knew.
// Relaxed, everywhere else: what is read of CPython is the thread's own, or it is compared with that.

/// From 3.12 on: the place where a thread has its attached thread state, see `os/words.rs`. 0 if it is not known.
static PLACE: AtomicIsize = AtomicIsize::new(0);
/// Two places, while it is not known which of them is `PLACE`.
static CANDIDATES: [AtomicIsize; 2] = [const { AtomicIsize::new(0) }; 2];

/// Up to 3.11: where CPython has the thread state that holds the GIL. NULL if that is not known.
static HOLDER: AtomicPtr<AtomicPtr<PyThreadState>> = AtomicPtr::new(null_mut());

/// `KEY` is the key under which a thread has what `PyGILState` takes for its own thread state. `OWN` is the place
/// where a thread has that, as in `os/words.rs`, or 0.
static KEY: AtomicU32 = AtomicU32::new(0);
static OWN: AtomicIsize = AtomicIsize::new(0);

/// Whether a run of Python has ended. In the next run, threads still have values of the first one.
static IS_OVER: AtomicUsize = AtomicUsize::new(0);

/// Returns what is attached to this thread and known to `PyGILState`, or NULL if nothing is attached. Returns `None`
/// if that cannot be seen; then [`attached_by_key`] may tell.
#[inline(always)]
pub(crate) fn attached() -> Option<*mut PyThreadState> {
    let place = PLACE.load(Ordering::Acquire);
    if place != 0 {
        // SAFETY: `learn` found this place.
        return Some(unsafe { words::read(place) }.cast());
    }
    let holder = holder()?;
    (holder.is_null() || holder == own_by_place()?).then_some(holder)
}

/// Up to 3.11: returns the same, by a call. Under the key of an earlier run of Python there may be anything that is
/// not attached.
pub(crate) fn attached_by_key() -> Option<*mut PyThreadState> {
    let holder = holder()?;
    let own = || value_of(KEY.load(Ordering::Relaxed));
    (holder.is_null() || holder == own().cast()).then_some(holder)
}

/// Up to 3.11: returns the thread state that holds the GIL, or NULL if none does. It may belong to any thread.
#[inline(always)]
fn holder() -> Option<*mut PyThreadState> {
    // SAFETY: NULL, or a word of CPython's.
    let word = unsafe { HOLDER.load(Ordering::Acquire).as_ref() };
    word.map(|word| word.load(Ordering::Relaxed))
}

#[inline(always)]
fn own_by_place() -> Option<*mut PyThreadState> {
    let place = OWN.load(Ordering::Relaxed);
    // SAFETY: `learn` found this place.
    (place != 0).then(|| unsafe { words::read(place) }.cast())
}

/// Returns what `PyGILState` takes for this thread's thread state, or NULL if there is none.
#[inline(always)]
pub(crate) fn own(py: &'static Api) -> *mut PyThreadState {
    // SAFETY: the call only reads thread-local storage.
    own_by_place().unwrap_or_else(|| unsafe { py.PyGILState_GetThisThreadState() })
}

/// Learns where the thread states can be read. `end_is_seen` says that [`forget_run`] will be called at the end of
/// this run of Python.
///
/// # Safety
/// `state` is attached to the calling thread, and known to `PyGILState`.
#[cold]
pub(crate) unsafe fn learn(py: &'static Api, state: *mut PyThreadState, end_is_seen: bool) {
    /// The number of attempts that may fail. What stood in the way the first time may have been a coincidence.
    const TIMES: usize = 8;
    static IN_VAIN: AtomicUsize = AtomicUsize::new(0);
    if attached().or_else(attached_by_key).is_some()
        || CANDIDATES[0].load(Ordering::Relaxed) != 0
        || IN_VAIN.load(Ordering::Relaxed) >= TIMES
    {
        return;
    }
    // SAFETY: attached, by this function's contract.
    unsafe {
        if !glance::has_interpreter_where_expected(py, state) {
            IN_VAIN.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let key = if py.version < USES_NO_KEY { gilstate_key(py) } else { None };
        if let Some(key) = key.filter(|_| end_is_seen && IS_OVER.load(Ordering::Relaxed) == 0) {
            let place = words::find_specific(key, state.cast()).unwrap_or(0);
            OWN.store(place, Ordering::Relaxed);
        }
        if py.version < PER_THREAD {
            if let Some((holder, key)) = current_word(py, state).zip(key) {
                KEY.store(key, Ordering::Relaxed);
                HOLDER.store(core::ptr::from_ref(holder).cast_mut(), Ordering::Release);
            }
        } else {
            match word::find(py, state) {
                Some([place, 0]) => PLACE.store(place, Ordering::Release),
                Some(two) => CANDIDATES
                    .iter()
                    .zip(two)
                    .for_each(|(to, place)| to.store(place, Ordering::Relaxed)),
                None => {
                    IN_VAIN.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// From this version on `PyGILState` has its thread states where the attached ones are.
const USES_NO_KEY: u16 = 0x030f;

/// Chooses, of the two places, the empty one. For a thread with nothing attached that had something attached before.
#[cold]
pub(crate) fn choose_place() {
    let mut places = [0; 2];
    places.iter_mut().zip(&CANDIDATES).for_each(|(to, place)| *to = place.load(Ordering::Relaxed));
    if let Some(place) = glance::empty_one(places) {
        PLACE.store(place, Ordering::Release);
    }
}

/// Forgets the run of Python that comes to its end.
pub(crate) fn forget_run() {
    IS_OVER.store(1, Ordering::Relaxed);
    OWN.store(0, Ordering::Relaxed);
}
