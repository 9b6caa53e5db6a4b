//! Finds out which thread state is attached to the calling thread.
//!
//! From 3.12 on CPython keeps the answer per thread. Before 3.12 CPython only keeps the thread state that holds the
//! GIL, and that may belong to any thread. So the calling thread has to recognize its own thread state.

use core::cell::Cell;
use core::ffi::{c_ulong, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};
use core::time::Duration;

use super::api::{Api, PyInterpreterState, PyThreadState};
use super::layouts::{CFrame, Layout, GIL_WORDS, INTERPRETER, LONGEST_LAYOUT, NEXT};
use super::objects::KeepException;
use crate::os;
use crate::support::clock::Instant;

pub(super) const PER_THREAD: u16 = 0x030c;

/// What is attached to a thread.
#[derive(Clone, Copy)]
pub(crate) struct Attached {
    /// NULL if nothing is attached.
    pub(crate) state: *mut PyThreadState,
    /// Whether `PyGILState_Ensure` would find that this thread state is attached.
    pub(crate) known_to_gilstate: bool,
}

impl Attached {
    pub(crate) const NOTHING: Attached =
        Attached { state: core::ptr::null_mut(), known_to_gilstate: true };
}

/// Returns what is attached to this thread.
///
/// `ensured` is the thread state of this thread's innermost Ensure, or NULL. `found` is the thread's note of what was
/// found before, if the thread has one.
#[inline]
pub(crate) fn attached(py: &Api, ensured: *mut PyThreadState, found: Option<&Found>) -> Attached {
    // SAFETY: any thread may make this call at any time.
    let holder = unsafe { py.unchecked_current() };
    if py.version >= PER_THREAD || holder.is_null() || holder == ensured {
        // An Ensure makes its thread state known to `PyGILState`, if that is needed.
        return Attached { state: holder, known_to_gilstate: true };
    }
    // SAFETY: the call only reads thread-local storage.
    let usual = unsafe { py.PyGILState_GetThisThreadState() };
    if holder == usual {
        Attached { state: holder, known_to_gilstate: true }
    } else if is_ours(py, holder, usual, ensured, found) {
        Attached { state: holder, known_to_gilstate: false }
    } else {
        Attached::NOTHING
    }
}

/// The thread state that was found to be attached to a thread by the long look of [`stays`], or NULL. It is only
/// compared, and may be freed by now. Only the thread itself uses the note.
pub(crate) type Found = Cell<*mut PyThreadState>;

/// Returns whether this thread holds the GIL with a thread state that `PyGILState` does not know for it, and that it
/// did not attach through the library. An example is the main thread after `Py_NewInterpreter`.
///
/// If another thread holds the GIL, the holder's thread state can be freed while this function looks at it. So the
/// function reads it in a way that cannot fault, and believes it only if the GIL has the same holder afterwards.
#[cold]
fn is_ours(
    py: &Api,
    holder: *mut PyThreadState,
    usual: *mut PyThreadState,
    ensured: *mut PyThreadState,
    found: Option<&Found>,
) -> bool {
    let Some(layout) = Layout::of(py.version) else {
        return false;
    };
    let mut words = [0usize; LONGEST_LAYOUT];
    let words = &mut words[..layout.words];
    // As said above, the holder is read in a way that cannot fault.
    if !os::read_without_faulting(holder.cast(), words) {
        return false;
    }
    // SAFETY: any thread may make this call at any time.
    if unsafe { py.unchecked_current() } != holder {
        return false;
    }
    if usual.is_null() {
        // A thread that creates a thread state gets it as its usual one. This thread has no usual one, so another
        // thread created `holder`. It may be attached to this thread nevertheless, but that shows only where it runs
        // Python code.
        return layout.cframe.is_some_and(|CFrame { word, own }| {
            words[word] != holder as usize + own && os::is_on_this_stack(words[word])
        });
    }
    if words[layout.words - 1] as c_ulong != os::this_handle() as c_ulong {
        return false;
    }
    // This thread created `holder`, but it may have handed it to another thread, which runs with it now. The evidence
    // follows, from strong to weak.
    let last_taker = last_taker(py, holder, &layout);
    if last_taker == usual || (last_taker == ensured && !ensured.is_null()) {
        // The GIL was taken with a thread state that is certainly this thread's, and `holder` was swapped in.
        return true;
    }
    if let Some(CFrame { word, own }) = layout.cframe {
        if words[word] != holder as usize + own {
            // `holder` runs Python code, on the stack that this word points to.
            return os::is_on_this_stack(words[word]);
        }
    }
    // The GIL was taken with `holder` itself. A thread that has one thread state of an interpreter seldom attaches
    // another one of the same interpreter (a debug build forbids it). But it is usual to hand new ones of that
    // interpreter to workers. For a thread state of another interpreter it is the other way round, unless that one is
    // seen to go on.
    // SAFETY: `usual` is this thread's own.
    let is_of_another =
        words[INTERPRETER] != unsafe { py.PyThreadState_GetInterpreter(usual) } as usize;
    if !is_of_another {
        return false;
    }
    // Ten times as long as a thread that wants the GIL waits by default until it asks for the GIL.
    const AT_FIRST: Duration = Duration::from_millis(50);
    // A thread that has had this thread state seldom hands it to another one. If it has, the other one most often
    // runs Python code, and that shows at once.
    const LATER: Duration = Duration::from_micros(100);
    let is_known = found.is_some_and(|found| found.get() == holder);
    let stays = stays(py, holder, &layout, if is_known { LATER } else { AT_FIRST });
    if let Some(found) = found {
        found.set(if stays { holder } else { core::ptr::null_mut() });
    }
    stays
}

/// Returns whether the GIL keeps its holder for a moment, and whether what is known of the two stays as it is. Both
/// hold if this thread is the holder, because this thread is in this function. Any other holder goes on meanwhile. If
/// another holder were taken for this thread, it would lose the GIL in the middle of its work.
fn stays(py: &Api, holder: *mut PyThreadState, layout: &Layout, moment: Duration) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_micros(20);
    let Some(before) = look_at(py, holder, layout) else { return false };
    let until = Instant::now() + moment;
    while Instant::now() < until {
        os::sleep(LOOK_AGAIN);
        if look_at(py, holder, layout).as_ref() != Some(&before) {
            return false;
        }
    }
    true
}

/// Returns the beginning of the holder's thread state, and the state of the GIL. Returns `None` if another thread
/// state holds the GIL, or if none does.
///
/// The neighbours in the list of thread states are left out. Any thread changes those, and needs no GIL for it.
fn look_at(
    py: &Api,
    holder: *mut PyThreadState,
    layout: &Layout,
) -> Option<([usize; LONGEST_LAYOUT], [usize; GIL_WORDS])> {
    let (mut state, mut gil) = ([0; LONGEST_LAYOUT], [0; GIL_WORDS]);
    for (index, word) in gil.iter_mut().enumerate() {
        let offset = layout.last_taker + index * size_of::<usize>();
        // Relaxed: the word is only compared with itself.
        *word = runtime_word(py, offset)?.load(Ordering::Relaxed) as usize;
    }
    let is_read = os::read_without_faulting(holder.cast(), &mut state[..layout.words]);
    state[..INTERPRETER].fill(0);
    // SAFETY: any thread may make this call at any time.
    (is_read && unsafe { py.unchecked_current() } == holder).then_some((state, gil))
}

/// Returns the thread state with which the GIL was last taken. Returns NULL if that cannot be told.
fn last_taker(py: &Api, holder: *mut PyThreadState, layout: &Layout) -> *mut PyThreadState {
    // The word at `current` is also known in another way. If both agree, the layout is right.
    match runtime_word(py, layout.current) {
        // Relaxed: the word is evidence about this thread's own past, or it is none.
        Some(current) if current.load(Ordering::Relaxed) == holder => {
            runtime_word(py, layout.last_taker)
                .map_or(core::ptr::null_mut(), |word| word.load(Ordering::Relaxed))
        }
        _ => core::ptr::null_mut(),
    }
}

fn runtime_word(py: &Api, offset: usize) -> Option<&'static AtomicPtr<PyThreadState>> {
    let runtime = py.runtime();
    // SAFETY: this is an aligned word inside CPython's `_PyRuntime`, which CPython accesses atomically too.
    (!runtime.is_null())
        .then(|| unsafe { &*runtime.byte_add(offset).cast::<AtomicPtr<PyThreadState>>() })
}

/// Up to 3.11: returns the word of `_PyRuntime` that names the thread state that holds the GIL.
///
/// # Safety
/// `state` is attached to the calling thread.
pub(super) unsafe fn current_word(
    py: &Api,
    state: *mut PyThreadState,
) -> Option<&'static AtomicPtr<PyThreadState>> {
    let word = runtime_word(py, Layout::of(py.version)?.current)?;
    (word.load(Ordering::Relaxed) == state).then_some(word)
}

/// Returns the number of the interpreter that is alive at this address, if one is. The address may be anything.
/// Leaves no exception set.
///
/// # Safety
/// The calling thread is attached to an interpreter, whichever it is.
pub(crate) unsafe fn live_interpreter(
    py: &'static Api,
    address: *mut PyInterpreterState,
) -> Option<i64> {
    // The number is somewhere near the beginning of a structure of many pages.
    const PAGE: usize = 4096;
    const PAGES: usize = 4;
    if address.is_null() || address as usize % core::mem::align_of::<usize>() != 0 {
        return None;
    }
    for page in 0..PAGES {
        let word = (address as usize).checked_add(page * PAGE)?;
        if !os::read_without_faulting(word as *const c_void, &mut [0]) {
            return None;
        }
    }
    // SAFETY: the call reads one word of memory that was readable a moment ago. Whatever the word is, it is only
    // taken for a number. It is believed only if CPython knows an interpreter of that number at this address.
    unsafe {
        let _exception = KeepException::new(py);
        let id = py.PyInterpreterState_GetID(address);
        let found = py._PyInterpreterState_LookUpID(id)?;
        (found == address).then_some(id)
    }
}

/// Up to 3.11: returns whether the interpreter has only one thread state, and the calling thread made it. If so, the
/// calling thread will end the interpreter, and no other thread is about to end it.
///
/// # Safety
/// The calling thread is attached, and the interpreter alive.
pub(crate) unsafe fn is_made_here(py: &Api, interpreter: *mut PyInterpreterState) -> bool {
    let Some(Layout { words, .. }) = Layout::of(py.version) else { return false };
    let mut state = [0; LONGEST_LAYOUT];
    // SAFETY: the interpreter is alive, by this function's contract. The thread state may go while it is read, and
    // that does not fault.
    unsafe {
        let newest = py.PyInterpreterState_ThreadHead(interpreter);
        !newest.is_null()
            && os::read_without_faulting(newest.cast(), &mut state[..words])
            && state[NEXT] == 0
            && state[INTERPRETER] == interpreter as usize
            && state[words - 1] as c_ulong == py.PyThread_get_thread_ident()
    }
}
