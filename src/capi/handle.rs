//! Makes and reads the handles of guards and views: what their bits mean.
//!
//! A handle is the address of an interpreter's record. Records are aligned, so the low bits are free. A guard is
//! not an allocation: to take one adds one to a count of the record, on its gate or on a stripe.
//!
//! | bits | guards and strong references | views and weak references |
//! | --- | --- | --- |
//! | 0 | dialect: 0 accepted, 1 draft | the same |
//! | 1 | 0 | 1 |
//! | 2 to 5 | the process that took it, as a count of forks | 0: views survive a fork |
//! | 6 to 9 | the life: which of the interpreters that had the record | the same; 0 for "main" in any run |
//! | 60 to 62 | the number of the stripe that counts it (`gate/stripe.rs`); 0: the gate counts it | 0 |
//!
//! With `PEP788_TRACE=1`, the address in the handle of a guard or strong reference is that of its slip
//! (`thread/slip.rs`), which leads to the record. Then bits 6 to 9 are the life of the slip. The code that decodes
//! a handle meets this case when it has found that the address is not a record's.
//!
//! `PyThreadState_Ensure` is one symbol for both dialects. Bit 0 tells it how to answer.

use alloc::format;
use core::sync::atomic::Ordering;

use crate::gate::record::{Record, RECORD_ALIGN};
use crate::gate::stripe::STRIPES;
use crate::python::fatal;
use crate::support::memory::Text;
use crate::system::generation::generation;
use crate::thread::slip::{Slip, What};
use crate::trace::list::tell;
use crate::trace::note;

const DRAFT: usize = 0b01;
const WEAK: usize = 0b10;
const FORK_SHIFT: u32 = 2;
const LIFE_SHIFT: u32 = 6;
/// Forks and lives are told apart modulo this.
const MODULUS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Guard,
    View,
    StrongRef,
    WeakRef,
}

impl Kind {
    #[inline]
    fn bits(self) -> usize {
        match self {
            Kind::Guard => 0,
            Kind::View => WEAK,
            Kind::StrongRef => DRAFT,
            Kind::WeakRef => DRAFT | WEAK,
        }
    }

    #[inline]
    fn is_weak(self) -> bool {
        self.bits() & WEAK != 0
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Guard => "PyInterpreterGuard",
            Kind::View => "PyInterpreterView",
            Kind::StrongRef => "PyInterpreterRef",
            Kind::WeakRef => "PyInterpreterWeakRef",
        }
    }
}

/// Where a handle has the number of its stripe. Addresses of 64 bits leave the highest bits unused. With shorter addresses
/// the gate counts all guards.
const STRIPE_SHIFT: u32 = 60;
const STRIPE_BITS: usize =
    if cfg!(target_pointer_width = "64") { (0b111_u64 << STRIPE_SHIFT) as usize } else { 0 };
const _: () = assert!(STRIPES < 0b1000);

/// Returns the bits of a handle whose guard was taken on the stripe with this number.
#[inline(always)]
pub(super) fn on_stripe(number: usize) -> usize {
    ((number as u64) << STRIPE_SHIFT) as usize & STRIPE_BITS
}

/// Returns the number of the stripe that counts a guard, or 0 if the gate counts it.
#[inline(always)]
pub(super) fn stripe_of(handle: usize) -> usize {
    ((handle & STRIPE_BITS) as u64 >> STRIPE_SHIFT) as usize
}

/// A handle that was checked.
pub(super) struct Handle {
    pub(super) record: &'static Record,
    /// Taken by a parent of this process: it holds nothing here.
    pub(super) inherited: bool,
    /// Inherited, and its interpreter ended in this process; the record may be another one's.
    pub(super) gone: bool,
    /// The number of the stripe that counts the guard, or 0 if the gate counts it.
    pub(super) stripe: usize,
    /// The address is that of a slip.
    is_traced: bool,
}

impl Handle {
    /// The guard is closed, or consumed; a fatal error if it was before. Where guards are not
    /// traced, the count of the gate has to tell.
    #[inline]
    pub(super) fn retire(&self, function: &str, handle: usize, kind: Kind) {
        if self.is_traced {
            retire_slip(function, handle, kind);
        }
    }
}

/// Whether a handle that reaches `PyThreadState_Ensure` is one of the draft dialect.
#[inline]
pub(super) fn is_draft(handle: usize) -> bool {
    handle & DRAFT != 0
}

#[inline]
fn this_process() -> usize {
    (generation() % MODULUS) << FORK_SHIFT
}

/// A handle for a guard that was just taken on `record`, or for a view of it.
#[inline]
pub(super) fn encode(record: &'static Record, kind: Kind) -> usize {
    let slip = match kind {
        Kind::Guard => note::note(record, What::Guard),
        Kind::StrongRef => note::note(record, What::StrongRef),
        Kind::View | Kind::WeakRef => None,
    };
    match slip {
        Some(slip) => {
            let life = slip.life() % MODULUS;
            core::ptr::from_ref(slip) as usize | life << LIFE_SHIFT | this_process() | kind.bits()
        }
        None => untraced(record, kind),
    }
}

/// The handle, if guards are not traced.
#[inline(always)]
pub(super) fn untraced(record: &'static Record, kind: Kind) -> usize {
    // Relaxed: the noted handle is forgotten when the record's life ends, and the caller's guard or view keeps that
    // life. It is also forgotten in a forked child.
    let noted = record.handles[usize::from(kind.is_weak())].load(Ordering::Relaxed);
    let handle = if noted != 0 { noted } else { note(record, kind) };
    handle | kind.bits() & DRAFT
}

/// Notes the handle, its dialect aside, so that `untraced` and `is_good` need only look.
#[cold]
fn note(record: &'static Record, kind: Kind) -> usize {
    let process = match kind {
        Kind::Guard | Kind::StrongRef => this_process(),
        Kind::View | Kind::WeakRef => 0,
    };
    let life = life_of(record, kind) << LIFE_SHIFT;
    let handle = core::ptr::from_ref(record) as usize | life | process | kind.bits() & !DRAFT;
    record.handles[usize::from(kind.is_weak())].store(handle, Ordering::Relaxed);
    handle
}

#[inline]
fn life_of(record: &Record, kind: Kind) -> usize {
    match kind {
        Kind::View | Kind::WeakRef if record.is_main() => 0,
        _ => record.life() % MODULUS,
    }
}

/// Whether it is seen at a glance that a handle is good: of this process, and of the interpreter that
/// has the record now, which is then [`record_of`] it.
#[inline(always)]
pub(super) fn is_good(handle: usize, kind: Kind) -> bool {
    if handle < RECORD_ALIGN {
        return false;
    }
    let handle = handle & !STRIPE_BITS;
    let record = (handle & !(RECORD_ALIGN - 1)) as *const Record;
    // SAFETY: the caller passed a handle of this library, and records always stay readable. Other memory, such as a
    // slip, does not have this address with these bits in this place.
    let noted = unsafe { &(*record).handles[usize::from(kind.is_weak())] };
    // Relaxed: a thread that has the handle has seen what was noted with it, or that note was forgotten.
    noted.load(Ordering::Relaxed) == handle ^ (kind.bits() & DRAFT)
}

/// # Safety
/// The handle [`is_good`].
#[inline(always)]
pub(super) unsafe fn record_of(handle: usize) -> &'static Record {
    // SAFETY: the handle is good by this function's contract, so it leads to a record, and records are never freed.
    unsafe { &*((handle & !(STRIPE_BITS | (RECORD_ALIGN - 1))) as *const Record) }
}

/// The record behind a handle; a fatal error for what cannot be one.
#[inline]
pub(super) fn decode(function: &str, handle: usize, kind: Kind) -> Handle {
    if !is_good(handle, kind) {
        return look_closely(function, handle, kind);
    }
    // SAFETY: the handle is good, so it leads to a record, and records are never freed.
    let record = unsafe { record_of(handle) };
    Handle { record, inherited: false, gone: false, stripe: stripe_of(handle), is_traced: false }
}

/// One that is not, or not any more, of this process and the record's interpreter.
#[cold]
fn look_closely(function: &str, handle: usize, kind: Kind) -> Handle {
    if handle == 0 {
        fatal(function, &format!("the {} is NULL; was its creation checked?", kind.name()));
    }
    let bits = handle % RECORD_ALIGN;
    if bits & (DRAFT | WEAK) != kind.bits() {
        let given = [Kind::Guard, Kind::View, Kind::StrongRef, Kind::WeakRef]
            .into_iter()
            .find(|kind| kind.bits() == bits & (DRAFT | WEAK))
            .map_or("", Kind::name);
        fatal(function, &format!("this takes a {}, and was given a {given}", kind.name()));
    }
    let address = (handle & !STRIPE_BITS) - bits;
    // SAFETY: the caller passed a handle of this library, and records always stay readable. The stamp tells a
    // record from anything else that is readable.
    let Some(record) = (address != 0).then(|| unsafe { Record::at(address) }).flatten() else {
        return decode_traced(function, handle, kind);
    };
    let inherited = match kind {
        Kind::Guard | Kind::StrongRef => bits & (MODULUS - 1) << FORK_SHIFT != this_process(),
        Kind::View | Kind::WeakRef => false,
    };
    let gone = bits >> LIFE_SHIFT != life_of(record, kind);
    if gone && !inherited {
        fatal(
            function,
            &format!("this {} was closed before, and its interpreter is gone", kind.name()),
        );
    }
    Handle { record, inherited, gone, stripe: stripe_of(handle), is_traced: false }
}

/// What the address leads to, if it is not a record.
#[cold]
fn decode_traced(function: &str, handle: usize, kind: Kind) -> Handle {
    let bits = handle % RECORD_ALIGN;
    let slip = match slip_of(handle) {
        Some(slip) if kind == Kind::Guard || kind == Kind::StrongRef => slip,
        _ => fatal(function, &format!("this is not a {} of this library", kind.name())),
    };
    let inherited = bits & (MODULUS - 1) << FORK_SHIFT != this_process();
    if !inherited && bits >> LIFE_SHIFT != slip.life() % MODULUS {
        closed_before(function, kind, slip, bits >> LIFE_SHIFT);
    }
    let gone = !slip.is_of_living();
    if gone && !inherited {
        fatal(function, &format!("the interpreter of this {} is gone", kind.name()));
    }
    Handle { record: slip.record(), inherited, gone, stripe: 0, is_traced: true }
}

fn slip_of(handle: usize) -> Option<&'static Slip> {
    let address = handle - handle % RECORD_ALIGN;
    // SAFETY: slips always stay readable too, and have a stamp where a record has its own. The stamp tells a slip
    // from anything else that is readable.
    (address != 0).then(|| unsafe { Slip::at(address) }).flatten()
}

#[cold]
fn retire_slip(function: &str, handle: usize, kind: Kind) {
    let Some(slip) = slip_of(handle) else { return };
    let own = (handle % RECORD_ALIGN) >> LIFE_SHIFT;
    let life = slip.life();
    // Another thread may close the guard first.
    if life % MODULUS != own || !slip.close(life) {
        closed_before(function, kind, slip, own);
    }
}

/// `life`: of the handle, and of the notes as long as the slip was not used again.
#[cold]
fn closed_before(function: &str, kind: Kind, slip: &Slip, life: usize) -> ! {
    let is_noted = slip.life() % MODULUS == (life + 1) % MODULUS;
    let trace = if is_noted { tell(slip) } else { Text::default() };
    already_closed(function, kind, trace.as_str().trim_end())
}

/// `trace`: what is known of it, as further lines.
#[cold]
pub(super) fn already_closed(function: &str, kind: Kind, trace: &str) -> ! {
    fatal(function, &format!("this {} is closed already; each is closed once{trace}", kind.name()))
}
