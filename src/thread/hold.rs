//! A hold: a guard that the library itself takes, for an Ensure or for a thread state.

use super::slip::{is_off, Slip};
use crate::gate::gate::NotOut;
use crate::gate::record::Record;
use crate::gate::registry::LOBBY;
use crate::gate::tally::Tally;
use crate::system::generation::generation;

/// A guard that the library keeps for a level of the stack, or for a thread state.
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    record: &'static Record,
    origin: Origin,
}

/// Where a hold is counted, and whether it still counts. It consists of the process that took the hold (a forked
/// child does not inherit it), the life of the record, and [`Origin::TALLIED`]. All this is in one word, so that a
/// hold stays in registers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin(u64);

impl Origin {
    /// The hold is counted in the thread's tally, and not on the gate.
    const TALLIED: u64 = 1;
    /// The other bits are the address of a slip, which knows all this.
    const TRACED: u64 = 2;

    #[inline]
    fn now(record: &Record) -> Origin {
        Origin((generation() as u64) << 32 | (record.life() as u64) << 16)
    }

    fn traced(slip: &'static Slip) -> Origin {
        Origin(core::ptr::from_ref(slip) as u64 | Origin::TRACED)
    }

    #[inline]
    fn slip(self) -> Option<&'static Slip> {
        let address = self.0 & !Origin::TRACED;
        // SAFETY: `traced` put the address there, and slips are never freed.
        (self.0 & Origin::TRACED != 0).then(|| unsafe { &*(address as *const Slip) })
    }

    #[inline]
    fn is_of_this_process(self) -> bool {
        self.0 >> 32 == generation() as u64
    }
}

impl Hold {
    /// Makes a hold of a guard that was taken a moment ago on `record`, in this process, and of its slip.
    #[inline]
    pub(crate) fn of(record: &'static Record, slip: Option<&'static Slip>) -> Hold {
        Hold { record, origin: slip.map_or_else(|| Origin::now(record), Origin::traced) }
    }

    /// Takes a hold that the calling thread gives back itself, in the cheap way. Returns `None` if that way is not
    /// possible.
    #[inline]
    pub(crate) fn tallied(tally: &Tally, record: &'static Record) -> Option<Hold> {
        if is_off() {
            Hold::tallied_untraced(tally, record)
        } else {
            None
        }
    }

    /// Does the same where tracing is known to be off. It is off wherever there is a `Glance` (`python/glance.rs`).
    #[inline(always)]
    pub(crate) fn tallied_untraced(tally: &Tally, record: &'static Record) -> Option<Hold> {
        let entered = record.enter_by(tally, &LOBBY);
        let origin = Origin(Origin::now(record).0 | Origin::TALLIED);
        entered.then_some(Hold { record, origin })
    }

    pub(crate) fn record(&self) -> &'static Record {
        self.record
    }

    #[inline]
    pub(crate) fn is_valid(&self) -> bool {
        self.origin.0 & !Origin::TALLIED == Origin::now(self.record).0
            || self.origin.slip().is_some_and(Slip::is_valid)
    }

    /// Gives the hold back. If it is tallied, this must be the thread that took it, and `tally` that thread's
    /// tally.
    #[inline(always)]
    pub(crate) fn give_back_by(self, tally: &Tally) -> Result<(), NotOut> {
        if self.origin.0 & Origin::TALLIED != 0 {
            // The hold is in the tally, whatever became of the interpreter. But it is not in the tally of a forked
            // child.
            if self.origin.is_of_this_process() {
                self.record.gate.leave_by(tally, &LOBBY);
            }
            Ok(())
        } else {
            self.leave()
        }
    }

    /// Gives back a hold that is not tallied.
    #[cold]
    pub(crate) fn leave(self) -> Result<(), NotOut> {
        if !self.is_valid() {
            return Ok(());
        }
        if let Some(slip) = self.origin.slip() {
            slip.close(slip.life());
        }
        self.record.gate.leave(&LOBBY)
    }
}
