//! What the bits of a handle mean.
//!
//! A handle is the address of an interpreter's record; records are aligned, which leaves the
//! low bits. A guard is not an allocation: taking one is a count on the record's gate.
//!
//! | bits | guards and strong references | views and weak references |
//! | --- | --- | --- |
//! | 0 | dialect: 0 accepted, 1 draft | the same |
//! | 1 | 0 | 1 |
//! | 2 to 5 | the process that took it, as a count of forks | 0: views survive a fork |
//! | 6 to 9 | which of the interpreters that had the record | the same; 0 for "main" in any run |
//!
//! Bit 0 tells `PyThreadState_Ensure`, one symbol for both dialects, how to answer.

use std::sync::atomic::Ordering;

use crate::fork;
use crate::interpreter::{Record, RECORD_ALIGN};
use crate::python::fatal;

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
    fn bits(self) -> usize {
        match self {
            Kind::Guard => 0,
            Kind::View => WEAK,
            Kind::StrongRef => DRAFT,
            Kind::WeakRef => DRAFT | WEAK,
        }
    }

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

/// A handle that was checked.
pub(super) struct Handle {
    pub(super) record: &'static Record,
    /// Taken by a parent of this process: it holds nothing here.
    pub(super) inherited: bool,
    /// Inherited, and its interpreter ended in this process; the record may be another one's.
    pub(super) gone: bool,
}

/// Whether a handle that reaches `PyThreadState_Ensure` is one of the draft dialect.
#[inline]
pub(super) fn is_draft(handle: usize) -> bool {
    handle & DRAFT != 0
}

#[inline]
fn this_process() -> usize {
    (fork::generation() % MODULUS) << FORK_SHIFT
}

#[inline]
pub(super) fn encode(record: &'static Record, kind: Kind) -> usize {
    let process = match kind {
        Kind::Guard | Kind::StrongRef => this_process(),
        Kind::View | Kind::WeakRef => 0,
    };
    let life = life_of(record, kind) << LIFE_SHIFT;
    let handle = std::ptr::from_ref(record) as usize | life | process | kind.bits();
    // Noted, so that `decode` need only compare. Relaxed: one that is not seen yet costs time.
    let noted = &record.handles[usize::from(kind.is_weak())];
    if noted.load(Ordering::Relaxed) != handle & !DRAFT {
        noted.store(handle & !DRAFT, Ordering::Relaxed);
    }
    handle
}

#[inline]
fn life_of(record: &Record, kind: Kind) -> usize {
    match kind {
        Kind::View | Kind::WeakRef if record.is_main() => 0,
        _ => record.life() % MODULUS,
    }
}

/// The record behind a handle, if that is seen at a glance: one of this process and of the
/// interpreter that has the record now.
#[inline(always)]
pub(super) fn glance(handle: usize, kind: Kind) -> Option<&'static Record> {
    if handle < RECORD_ALIGN {
        return None;
    }
    let record = (handle & !(RECORD_ALIGN - 1)) as *const Record;
    // SAFETY: the caller passed a handle of ours, and records stay readable for ever. Other
    // memory does not hold this address, with these bits, in this place.
    let noted = unsafe { &(*record).handles[usize::from(kind.is_weak())] };
    // Relaxed: whoever has the handle has seen what was noted with it, or it was forgotten.
    let is_noted = noted.load(Ordering::Relaxed) == handle ^ (kind.bits() & DRAFT);
    // SAFETY: noted there, so it is a record.
    is_noted.then(|| unsafe { &*record })
}

/// The record behind a handle; a fatal error for what cannot be one.
#[inline]
pub(super) fn decode(function: &str, handle: usize, kind: Kind) -> Handle {
    match glance(handle, kind) {
        Some(record) => Handle { record, inherited: false, gone: false },
        None => look_closely(function, handle, kind),
    }
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
    let address = handle - bits;
    // SAFETY: the caller passed a handle of ours, and records stay readable for ever. Of
    // anything else that is readable, the check of the record's stamp tells.
    let Some(record) = (address != 0).then(|| unsafe { Record::at(address) }).flatten() else {
        fatal(function, &format!("this is not a {} of this library", kind.name()));
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
    Handle { record, inherited, gone }
}
