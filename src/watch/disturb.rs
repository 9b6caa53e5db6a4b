//! Provokes races at exit, for `python -m pep788 replay-exit` (`PEP788_DISTURB=SEED,MILLISECONDS,SIGNAL`).
//!
//! Some time after the first thread has attached, the main thread is told to leave (`alarm`). Threads are delayed
//! where that is dangerous: before they attach, inside a call, after it; and so is the thread that conducts the exit,
//! between its parts. The same seed gives the same delays, as far as threads come in the same order.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use super::file::Slot;
use crate::os;
use crate::support::settings;

/// The seed, how many milliseconds the program goes on at most, and the signal that tells it to leave. 0: nothing is
/// disturbed.
static SEED: AtomicU64 = AtomicU64::new(0);
pub(super) static WITHIN: AtomicU64 = AtomicU64::new(0);
pub(super) static SIGNAL: AtomicU64 = AtomicU64::new(0);
static IS_EXITING: AtomicBool = AtomicBool::new(false);

/// Where a thread is delayed.
#[derive(Clone, Copy)]
pub(super) enum Place {
    BeforeAttaching,
    Inside,
    AfterDetaching,
    /// Between the parts of the exit.
    Between,
}

// Relaxed, in the whole file: the numbers decide about delays only.

/// Reads the setting. This is done when the library is loaded.
pub(super) fn begin() {
    let Some([seed, within, signal]) = settings::disturb() else { return };
    SEED.store(seed | 1 << 63, Ordering::Relaxed);
    WITHIN.store(within, Ordering::Relaxed);
    SIGNAL.store(signal, Ordering::Relaxed);
}

pub(super) fn is_on() -> bool {
    SEED.load(Ordering::Relaxed) != 0
}

/// Returns a number that looks random, and is the same for the same two numbers and the same seed (SplitMix64).
pub(super) fn random(a: u64, b: u64) -> u64 {
    let mut z = SEED.load(Ordering::Relaxed)
        ^ a.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Delays the calling thread now and then.
#[inline]
pub(super) fn thread(slot: &Slot, place: Place) {
    if is_on() {
        let calls = slot.calls.load(Ordering::Relaxed);
        let number = (core::ptr::from_ref(slot) as u64) / size_of::<Slot>() as u64;
        delay(number.wrapping_mul(8) + place as u64, calls, place);
    }
}

/// Delays the thread that conducts the exit now and then, before the part of this number.
pub(super) fn conductor(part: u64) {
    if is_on() {
        IS_EXITING.store(true, Ordering::Relaxed);
        delay(u64::MAX, part, Place::Between);
    }
}

fn delay(a: u64, b: u64, place: Place) {
    let random = random(a, b);
    // One call of so many is delayed, by so many microseconds at most.
    let (of, most) = match (place, IS_EXITING.load(Ordering::Relaxed)) {
        (Place::Between, _) => (2, 30_000),
        (Place::Inside, false) => (16, 1_000),
        (Place::Inside, true) => (2, 3_000),
        (_, false) => (8, 3_000),
        (_, true) => (2, 20_000),
    };
    if random % of == 0 {
        os::sleep(Duration::from_micros(random / of % most));
    }
}
