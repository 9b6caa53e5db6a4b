//! `PyThreadState_Ensure` and `PyThreadState_Release`, for the accepted API and for the draft.
//!
//! Each is one symbol for both dialects. The prototypes that users see are in `accepted.rs` and `draft.rs`. A draft
//! reference carries a tag bit that a guard does not have. This bit tells how to answer. Release pops the thread's
//! own stack of Ensures, so it does not need the argument that a caller of the draft does not pass.

use super::handle::{self, decode, Kind};
use super::shared::open_or_fatal;
use super::ways::{self, Call};
use crate::attach::ensure::{self as attach, Receipt};
use crate::attach::release::{self, release_at_a_glance};
use crate::gate::record::Record;
use crate::interpreter::first_use::of;
use crate::python::{self, is_of, native, Api, Glance, PyThreadState};
use crate::start;
use crate::thread::attached::attached;
use crate::thread::hold::Hold;
use crate::thread::thread::Thread;
use crate::trace::note::{another_hold, hold_of};
use crate::watch::threads::{self, Way};

/// The results 0 and -1 of a draft Ensure, in a register that may be read as a pointer or as an `int`.
const DONE: usize = 0;
const FAILED: usize = -1isize as usize;

#[doc(hidden)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Ensure(handle: usize) -> usize {
    // SAFETY: this function and the called one have the same contract.
    unsafe { ensure_of_guard(handle) }
}

/// Does the same for the crate itself. On 3.15, the exported name may be bound to the interpreter's function.
#[inline(always)]
pub(crate) unsafe fn ensure_of_guard(handle: usize) -> usize {
    ways::take::<Ensure>(handle)
}

struct Ensure;

impl Call for Ensure {
    type Result = usize;

    #[inline(always)]
    unsafe fn seeing(current: *mut PyThreadState, handle: usize) -> usize {
        if !handle::is_good(handle, Kind::Guard) {
            return ensure_uncommonly(current, handle);
        }
        // SAFETY: `is_good` compared the handle with the record's own, so it leads to a record.
        let record = unsafe { handle::record_of(handle) };
        let Some(thread) = Thread::known() else { return Ensure::any(handle) };
        // The long way reports a guard that is not open.
        if !record.has_guard(handle::stripe_of(handle)) {
            return Ensure::any(handle);
        }
        if current.is_null() {
            // SAFETY: there is a glance, and nothing is attached.
            return unsafe { ensure_detached(thread, record) };
        }
        // SAFETY: there is a glance, and `current` is attached.
        unsafe {
            if is_of(current, record.interpreter()) {
                if let Some(token) = attach::reuse(thread, record, current, None, Receipt::Token) {
                    return token;
                }
            }
        }
        Ensure::any(handle)
    }

    #[inline(never)]
    fn any(handle: usize) -> usize {
        let py = start::api(ENSURE);
        let slot = threads::arrives(py, Way::Pep788);
        let result = Ensure::closely(py, handle);
        let is_done = if handle::is_draft(handle) { result == DONE } else { result != 0 };
        if let Some(slot) = slot.filter(|_| is_done) {
            threads::is_in(py, slot);
        }
        result
    }
}

impl Ensure {
    fn closely(py: &'static Api, handle: usize) -> usize {
        if handle == 0 {
            python::fatal(
                ENSURE,
                "the PyInterpreterGuard, or PyInterpreterRef, is NULL; was its creation checked?",
            );
        }
        if handle::is_draft(handle) {
            return if ensure_ref(py, ENSURE, handle) { DONE } else { FAILED };
        }
        if let Some(native) = native(py) {
            // SAFETY: a handle without the draft's tag bit is the interpreter's own.
            return unsafe { (native.PyThreadState_Ensure)(handle) };
        }
        let guard = decode(ENSURE, handle, Kind::Guard);
        if guard.inherited {
            // The guard is of a parent process. It says which interpreter it is, and no more.
            return if guard.gone { 0 } else { ensure_by_name(py, guard.record) };
        }
        open_or_fatal(ENSURE, &guard, Kind::Guard);
        let Some(thread) = Thread::this() else { return 0 };
        // SAFETY: the caller's guard keeps the interpreter alive.
        unsafe { attach::ensure(py, thread, guard.record, None, Receipt::Token) }.unwrap_or(0)
    }
}

/// # Safety
/// Nothing is attached to this thread. The thread had a [`Glance`].
#[inline(never)]
unsafe fn ensure_detached(thread: &Thread, record: &'static Record) -> usize {
    // SAFETY: nothing is attached, by this function's contract. The caller's guard keeps the interpreter alive.
    unsafe { attach::ensure_detached(Glance::again(), thread, record, None, Receipt::Token) }
        .unwrap_or(0)
}

/// Does what `Ensure::seeing` does, for a handle that is not a good guard. It may be a draft reference.
#[inline(never)]
fn ensure_uncommonly(current: *mut PyThreadState, handle: usize) -> usize {
    if handle::is_good(handle, Kind::StrongRef) {
        // SAFETY: `Ensure::seeing` passes `current` on as its contract says, and the handle is good.
        if let Some(done) = unsafe { ensure_ref_seeing(current, handle) } {
            return if done { DONE } else { FAILED };
        }
    }
    Ensure::any(handle)
}

const ENSURE: &str = "PyThreadState_Ensure";

/// Serves `PyThreadState_EnsureFromView`, or hands the call on to the interpreter's own function.
#[doc(hidden)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_EnsureFromView(handle: usize) -> usize {
    // SAFETY: this function and the called one have the same contract.
    unsafe { ensure_of_view(handle) }
}

/// Does the same for the crate itself. On 3.15, the exported name may be bound to the interpreter's function.
#[inline(always)]
pub(crate) unsafe fn ensure_of_view(handle: usize) -> usize {
    ways::take::<EnsureFromView>(handle)
}

struct EnsureFromView;

impl Call for EnsureFromView {
    type Result = usize;

    #[inline(always)]
    unsafe fn seeing(current: *mut PyThreadState, handle: usize) -> usize {
        if !handle::is_good(handle, Kind::View) {
            return EnsureFromView::any(handle);
        }
        // SAFETY: `is_good` compared the handle with the record's own, so it leads to a record.
        let record = unsafe { handle::record_of(handle) };
        let Some(thread) = Thread::known() else { return EnsureFromView::any(handle) };
        if !record.is_installed() {
            return EnsureFromView::any(handle);
        }
        if current.is_null() {
            // SAFETY: there is a glance, and nothing is attached.
            return unsafe { ensure_view_detached(thread, record, handle) };
        }
        // SAFETY: there is a glance, and `current` is attached.
        if unsafe { is_of(current, record.interpreter()) } {
            if let Some(hold) = Hold::tallied_untraced(&thread.tally, record) {
                // SAFETY: `current` is attached, and is of the record's interpreter.
                let token =
                    unsafe { attach::reuse(thread, record, current, Some(hold), Receipt::Token) };
                if let Some(token) = token {
                    return token;
                }
                let _ = hold.give_back_by(&thread.tally);
            }
        }
        EnsureFromView::any(handle)
    }

    #[inline(never)]
    fn any(handle: usize) -> usize {
        const NAME: &str = "PyThreadState_EnsureFromView";
        let py = start::api(NAME);
        let slot = threads::arrives(py, Way::Pep788);
        let token = match native(py) {
            // SAFETY: the view is the interpreter's own.
            Some(native) => unsafe { (native.PyThreadState_EnsureFromView)(handle) },
            None => ensure_by_name(py, decode(NAME, handle, Kind::View).record),
        };
        if let Some(slot) = slot.filter(|_| token != 0) {
            threads::is_in(py, slot);
        }
        token
    }
}

/// Makes an Ensure by a view, or by a guard of a parent process, which serves like a view.
fn ensure_by_name(py: &'static Api, record: &'static Record) -> usize {
    let Some(thread) = Thread::this() else { return 0 };
    if !record.is_installed() {
        return ensure_and_install(py, thread, record);
    }
    let Some(hold) = hold(py, thread, record) else { return 0 };
    // SAFETY: the hold keeps the interpreter alive.
    let ensured = unsafe { attach::ensure(py, thread, record, Some(hold), Receipt::Token) };
    ensured.unwrap_or_else(|| refuse(hold))
}

/// # Safety
/// Nothing is attached to this thread. The thread had a [`Glance`].
#[inline(never)]
unsafe fn ensure_view_detached(thread: &Thread, record: &'static Record, handle: usize) -> usize {
    let Some(hold) = Hold::tallied_untraced(&thread.tally, record) else {
        return EnsureFromView::any(handle);
    };
    // SAFETY: nothing is attached, by this function's contract. The hold keeps the interpreter alive.
    let ensured = unsafe {
        attach::ensure_detached(Glance::again(), thread, record, Some(hold), Receipt::Token)
    };
    ensured.unwrap_or_else(|| refuse(hold))
}

#[cold]
fn refuse(hold: Hold) -> usize {
    let _ = hold.give_back();
    0
}

/// Promotes a view for the time of an Ensure.
#[inline]
fn hold(py: &'static Api, thread: &Thread, record: &'static Record) -> Option<Hold> {
    match Hold::tallied(&thread.tally, record) {
        Some(hold) => Some(hold),
        None => record.promote(py).is_ok().then(|| hold_of(record)),
    }
}

/// Makes an Ensure, and installs the exit callback. This is the first use of the main interpreter, or other code
/// has cleared the exit callbacks.
#[cold]
fn ensure_and_install(py: &'static Api, thread: &'static Thread, record: &'static Record) -> usize {
    if record.promote(py).is_err() {
        return 0;
    }
    let hold = hold_of(record);
    // SAFETY: the hold keeps the interpreter alive.
    let ensured = unsafe { attach::ensure(py, thread, record, Some(hold), Receipt::Token) };
    let Some(token) = ensured else {
        let _ = hold.give_back();
        return 0;
    };
    // SAFETY: what `ensure` attached is attached.
    if !record.is_installed() && unsafe { of(py, attached(py)) }.is_err() {
        release::release(py, "PyThreadState_EnsureFromView", token);
        return 0;
    }
    token
}

#[doc(hidden)]
#[cfg_attr(feature = "c-api", no_mangle)]
pub unsafe extern "C" fn PyThreadState_Release(token: usize) {
    // SAFETY: this function and the called one have the same contract.
    unsafe { release(token) }
}

#[inline(always)]
pub(crate) unsafe fn release(token: usize) {
    // A caller of the draft dialect passes nothing, so `token` is what the register held. Its Ensure took no
    // receipt, so the token is not checked.
    ways::take::<Release>(token);
}

struct Release;

impl Call for Release {
    type Result = ();

    /// Release compares the holder with what the Ensure attached.
    const TAKES_ANY_HOLDER: bool = true;

    #[inline(always)]
    unsafe fn seeing(current: *mut PyThreadState, token: usize) {
        // SAFETY: there is a glance, by the contract of `Call::seeing`.
        unsafe { release_at_a_glance(current, token) }
    }

    #[inline(never)]
    fn any(token: usize) {
        let py = start::api(RELEASE);
        let slot = threads::goes(py);
        match native(py) {
            // SAFETY: the token is of the interpreter's own Ensure. Where the interpreter has this function itself,
            // the draft dialect has Pep788_Release.
            Some(native) => unsafe { (native.PyThreadState_Release)(token) },
            None => release::release(py, RELEASE, token),
        }
        if let Some(slot) = slot {
            threads::is_out(slot);
        }
    }
}

const RELEASE: &str = "PyThreadState_Release";

/// Makes a draft Ensure in the most common case. Returns `None` if the case is another one.
///
/// # Safety
/// The contract of [`Call::seeing`] is kept, and the handle is a good strong reference.
unsafe fn ensure_ref_seeing(current: *mut PyThreadState, handle: usize) -> Option<bool> {
    // SAFETY: the handle is good by this function's contract, so it leads to a record, and records are never freed.
    let record = unsafe { handle::record_of(handle) };
    let thread = Thread::known().filter(|_| record.has_guard(handle::stripe_of(handle)))?;
    // SAFETY: there is a glance, and `current` is attached.
    if !current.is_null() && !unsafe { is_of(current, record.interpreter()) } {
        return None;
    }
    let hold = Hold::tallied_untraced(&thread.tally, record)?;
    // SAFETY: there is a glance. What is attached is of the record's interpreter, or nothing is. The hold keeps the
    // interpreter alive.
    let ensured = unsafe {
        if current.is_null() {
            let glance = Glance::again();
            attach::ensure_detached(glance, thread, record, Some(hold), Receipt::None)
        } else {
            attach::reuse(thread, record, current, Some(hold), Receipt::None)
        }
    };
    if ensured.is_none() {
        let _ = hold.give_back_by(&thread.tally);
        return None;
    }
    Some(true)
}

/// Makes a draft Ensure, which takes a reference of its own. Its Release drops that reference.
pub(super) fn ensure_ref(py: &'static Api, function: &str, handle: usize) -> bool {
    let reference = decode(function, handle, Kind::StrongRef);
    let Some(thread) = Thread::this() else { return false };
    let record = reference.record;
    let hold = if reference.inherited {
        (!reference.gone).then(|| hold(py, thread, record)).flatten()
    } else {
        open_or_fatal(function, &reference, Kind::StrongRef);
        Hold::tallied(&thread.tally, record).or_else(|| another_hold(record))
    };
    hold.is_some_and(|hold| ensure_holding(py, thread, record, hold))
}

/// Makes a draft Ensure that takes over a hold on `record`, whether the Ensure succeeds or not.
#[inline]
pub(super) fn ensure_holding(
    py: &'static Api,
    thread: &'static Thread,
    record: &'static Record,
    hold: Hold,
) -> bool {
    // SAFETY: the hold keeps the interpreter alive.
    let ensured = unsafe { attach::ensure(py, thread, record, Some(hold), Receipt::None) };
    if ensured.is_none() {
        let _ = hold.give_back();
    }
    ensured.is_some()
}
