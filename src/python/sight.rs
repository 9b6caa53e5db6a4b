//! Where a thread's own thread state, and the attached one, can be read, for the seatbelt's commonest calls.
//!
//! As [`Glance`](super::glance::Glance), which is for PEP 788's calls: that there is one means more, and it is missing where
//! CPython has the calls itself, or guards are traced.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::api::{Api, PyThreadState};
use super::current::{current_word, PER_THREAD};
use super::gilstate_slot::gilstate_key;
use super::{glance, word};

// Release and Acquire: who sees by `PLACE` or `HOLDER` knows what its caller of `learn` knew. Relaxed, all else: what is
// read of CPython is the thread's own, or compared with that.

/// From 3.12 on: where a thread has the attached one, see `word.rs`. 0: not known.
static PLACE: AtomicIsize = AtomicIsize::new(0);
/// Two of which one is that place, as long as it is not known which.
static CANDIDATES: [AtomicIsize; 2] = [const { AtomicIsize::new(0) }; 2];

/// Up to 3.11: where CPython has the thread state that holds the GIL. NULL: not known.
static HOLDER: AtomicPtr<AtomicPtr<PyThreadState>> = AtomicPtr::new(null_mut());

/// The key under which a thread has what `PyGILState` takes for its own; and where it has that, likewise, or 0.
static KEY: AtomicU32 = AtomicU32::new(0);
static OWN: AtomicIsize = AtomicIsize::new(0);

/// Whether a run of Python has ended. In the next one, threads still have values of the first.
static IS_OVER: AtomicUsize = AtomicUsize::new(0);

/// What is attached to this thread, and known to `PyGILState`; NULL for nothing. `None`: that cannot be seen, but
/// [`attached_by_key`] may tell.
#[inline(always)]
pub(crate) fn attached() -> Option<*mut PyThreadState> {
    let place = PLACE.load(Ordering::Acquire);
    if place != 0 {
        // SAFETY: found in `learn`.
        return Some(unsafe { word::read(place) });
    }
    let holder = holder()?;
    (holder.is_null() || holder == own_by_place()?).then_some(holder)
}

/// The same up to 3.11, by a call. Under the key of an earlier run of Python may be anything that is not attached.
pub(crate) fn attached_by_key() -> Option<*mut PyThreadState> {
    let holder = holder()?;
    // SAFETY: any key may be asked for.
    let own = || unsafe { libc::pthread_getspecific(KEY.load(Ordering::Relaxed)) };
    (holder.is_null() || holder == own().cast()).then_some(holder)
}

/// Up to 3.11: the thread state that holds the GIL, of whichever thread; NULL for none.
#[inline(always)]
fn holder() -> Option<*mut PyThreadState> {
    // SAFETY: NULL, or a word of CPython's.
    let word = unsafe { HOLDER.load(Ordering::Acquire).as_ref() };
    word.map(|word| word.load(Ordering::Relaxed))
}

#[inline(always)]
fn own_by_place() -> Option<*mut PyThreadState> {
    let place = OWN.load(Ordering::Relaxed);
    // SAFETY: found in `learn`.
    (place != 0).then(|| unsafe { word::read(place) })
}

/// What `PyGILState` takes for this thread's thread state; NULL for none.
#[inline(always)]
pub(crate) fn own(py: &'static Api) -> *mut PyThreadState {
    // SAFETY: reads thread-local storage only.
    own_by_place().unwrap_or_else(|| unsafe { py.PyGILState_GetThisThreadState() })
}

/// `end_is_seen`: [`forget_run`] will be called at the end of this run of Python.
///
/// # Safety
/// `state` is attached to the calling thread, and known to `PyGILState`.
#[cold]
pub(crate) unsafe fn learn(py: &'static Api, state: *mut PyThreadState, end_is_seen: bool) {
    /// So often in vain: what stood in the way the first time may have been a coincidence.
    const TIMES: usize = 8;
    static IN_VAIN: AtomicUsize = AtomicUsize::new(0);
    if attached().or_else(attached_by_key).is_some()
        || CANDIDATES[0].load(Ordering::Relaxed) != 0
        || IN_VAIN.load(Ordering::Relaxed) >= TIMES
    {
        return;
    }
    // SAFETY: attached, says the caller.
    unsafe {
        if !glance::has_interpreter_where_expected(py, state) {
            IN_VAIN.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let key = if py.version < USES_NO_KEY { gilstate_key(py) } else { None };
        if let Some(key) = key.filter(|_| end_is_seen && IS_OVER.load(Ordering::Relaxed) == 0) {
            let place = word::find_specific(key, state.cast()).unwrap_or(0);
            OWN.store(place, Ordering::Relaxed);
        }
        if py.version < PER_THREAD {
            if let Some((holder, key)) = current_word(py, state).zip(key) {
                KEY.store(key, Ordering::Relaxed);
                HOLDER.store(std::ptr::from_ref(holder).cast_mut(), Ordering::Release);
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

/// From then on `PyGILState` has its thread states where the attached ones are.
const USES_NO_KEY: u16 = 0x030f;

/// For a thread with nothing attached that had something attached before: of two places that is the empty one.
#[cold]
pub(crate) fn choose_place() {
    let mut places = [0; 2];
    places.iter_mut().zip(&CANDIDATES).for_each(|(to, place)| *to = place.load(Ordering::Relaxed));
    if let Some(place) = glance::empty_one(places) {
        PLACE.store(place, Ordering::Release);
    }
}

/// A run of Python comes to its end.
pub(crate) fn forget_run() {
    IS_OVER.store(1, Ordering::Relaxed);
    OWN.store(0, Ordering::Relaxed);
}
