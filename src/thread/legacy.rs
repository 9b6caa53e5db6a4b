//! The hold that a thread has on its interpreter while it is inside `PyGILState_Ensure`.

use core::cell::Cell;
use core::ffi::c_int;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use super::seen::Seen;
use crate::gate::record::Record;
use crate::gate::registry::{main, LOBBY};
use crate::gate::tally::Tally;
use crate::python::PyThreadState;
use crate::system::generation::generation;

/// Keeps an interpreter from finalizing for some time: see `exit/calls.rs`.
#[derive(Clone, Copy)]
struct Hold {
    record: &'static Record,
    process: usize,
    life: usize,
    /// Whether it is counted in the thread's tally, and not on the gate.
    is_tallied: bool,
    until: Until,
}

/// What ends a thread's hold.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Until {
    /// As many Releases that detach as there are Ensures that attached. `counted` is the number of calls that were
    /// counted in the thread state with the first of these Ensures. `alone` means that there was no Python code
    /// under that Ensure.
    Released { ensures: usize, counted: c_int, alone: bool },
    /// The deletion of a scope's thread state.
    Deleted(*mut PyThreadState),
}

impl Hold {
    fn is_valid(&self) -> bool {
        self.process == generation() && self.life == self.record.life()
    }

    /// Gives the hold back, in the thread that took it. `tally` is that thread's tally.
    fn give_back(self, tally: &Tally) {
        if self.is_tallied {
            // The hold is in the tally, whatever became of the interpreter. But it is not in the tally of a forked
            // child.
            if self.process == generation() {
                self.record.legacy.leave_by(tally, &LOBBY);
            }
        } else if self.is_valid() {
            let _ = self.record.legacy.leave(&LOBBY);
        }
    }
}

/// The interpreter that a thread chose: its record, and the life that the record had then.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    record: &'static Record,
    life: usize,
}

impl Chosen {
    pub(crate) fn now(record: &'static Record) -> Chosen {
        Chosen { record, life: record.life() }
    }

    /// Returns the record, or `None` if the interpreter is gone.
    pub(crate) fn record(self) -> Option<&'static Record> {
        (self.record.life() == self.life && !self.record.interpreter().is_null())
            .then_some(self.record)
    }
}

pub(crate) type Choice = Cell<Option<Chosen>>;

/// What the library keeps of a thread's calls of `PyGILState_Ensure`.
pub(crate) struct Legacy {
    hold: Cell<Option<Hold>>,
    /// The interpreter whose exit this thread conducts: its record, and the life of the record.
    finalizes: Cell<Option<(&'static Record, usize)>>,
    /// The thread state that an Ensure made for the thread.
    made: Cell<*mut PyThreadState>,
    /// Whether that thread state outlived the call, because other code counted a call in it.
    is_kept: Cell<bool>,
    /// The interpreter that an Ensure attaches the thread to while the thread has no thread state.
    pub(crate) chosen: Choice,
    pub(crate) seen: Seen,
}

impl Legacy {
    pub(crate) fn new() -> Legacy {
        Legacy {
            hold: Cell::new(None),
            finalizes: Cell::new(None),
            made: Cell::new(null_mut()),
            is_kept: Cell::new(false),
            chosen: Choice::new(None),
            seen: Seen::new(),
        }
    }

    /// Returns the thread's hold, quick or not. A quick hold becomes one that is not quick.
    fn hold(&self) -> Option<Hold> {
        let quick = &self.seen.quick;
        if !quick.is_there() {
            return self.hold.get();
        }
        let until = Until::Released { ensures: 1, counted: quick.counted(), alone: true };
        let (record, process) = (main(), generation());
        let hold = Hold { record, process, life: quick.life(), is_tallied: true, until };
        self.set_hold(Some(hold));
        Some(hold)
    }

    fn set_hold(&self, hold: Option<Hold>) {
        self.hold.set(hold);
        self.seen.holds(hold.map(|hold| hold.record));
    }

    /// Takes a quick hold: on the main interpreter, for an Ensure of a thread that has no hold, if no exit has
    /// begun. Returns `false` if the hold cannot be taken this way.
    #[inline(always)]
    pub(crate) fn enter_quickly(&self, tally: &Tally) -> bool {
        let main = main();
        // If it is not free, a hold of another life, or of a parent process, has to be given back first.
        self.seen.quick.is_free() && main.is_installed() && main.enter_legacy_by(tally, &LOBBY)
    }

    /// Notes a quick hold. `counted` is the number of calls that are counted in the thread state with that Ensure.
    #[inline(always)]
    pub(crate) fn note_quick(&self, counted: c_int) {
        self.seen.quick.set(main().life(), counted);
    }

    /// Returns whether there is a quick hold, and `counted` is the number of calls counted with the Ensure that
    /// took it.
    #[inline(always)]
    pub(crate) fn is_quick(&self, counted: c_int) -> bool {
        counted != 0 && self.seen.quick.counted() == counted
    }

    /// Gives a quick hold back.
    #[inline(always)]
    pub(crate) fn leave_quickly(&self, tally: &Tally) {
        self.seen.quick.free();
        self.seen.gives_back();
        main().legacy.leave_by(tally, &LOBBY);
    }

    /// Returns whether an Ensure made this thread state.
    #[inline(always)]
    pub(crate) fn has_made(&self, state: *mut PyThreadState) -> bool {
        self.made.get() == state
    }

    /// Returns whether the thread is inside a call that holds its interpreter.
    pub(crate) fn is_holding(&self) -> bool {
        self.hold().is_some_and(|hold| hold.is_valid())
    }

    /// Keeps the hold until `until`, from now on.
    pub(crate) fn keep(&self, until: Until) {
        self.set_hold(self.hold().map(|hold| Hold { until, ..hold }));
    }

    /// Notes that an Ensure attached a thread state, which it found or made, and counted itself in that thread
    /// state.
    pub(crate) fn note_ensure(&self, count: c_int) {
        if let Some(Until::Released { ensures, counted, alone }) =
            self.hold().map(|hold| hold.until)
        {
            let counted = if ensures == 0 { count } else { counted };
            self.keep(Until::Released { ensures: ensures + 1, counted, alone });
        }
    }

    /// Notes that an Ensure made a thread state.
    pub(crate) fn note_making(&self, state: *mut PyThreadState) {
        self.made.set(state);
        self.is_kept.set(false);
    }

    /// Returns whether the thread state that a Release is about to detach has to be deleted, although a call is
    /// still counted in it. Code that keeps such a thread state (cffi up to 2.0) later attaches it in a way that
    /// the library does not see. So the library could not keep the thread out when it is too late.
    pub(crate) fn goes_nevertheless(&self, state: *mut PyThreadState, over_python: bool) -> bool {
        /// Relaxed: the value publishes nothing else.
        static ATTACH_KEPT_ONES: AtomicBool = AtomicBool::new(false);
        if self.made.get() != state || over_python {
            return false;
        }
        match self.hold().map(|hold| hold.until) {
            Some(Until::Released { ensures: 0 | 1, .. }) => self.is_kept.set(true),
            None if self.is_kept.get() => ATTACH_KEPT_ONES.store(true, Ordering::Relaxed),
            _ => return false,
        }
        ATTACH_KEPT_ONES.load(Ordering::Relaxed)
    }

    /// Notes that a Release detached the thread. `over_python` means that there is Python code in the thread state.
    pub(crate) fn note_release(&self, tally: &Tally, over_python: bool) {
        match self.hold().map(|hold| hold.until) {
            Some(Until::Released { ensures, counted, alone }) if ensures > 1 => {
                self.keep(Until::Released { ensures: ensures - 1, counted, alone });
            }
            // This is the Release of a call inside that attached by other means, as cffi does.
            Some(Until::Released { alone: true, .. }) if over_python => {}
            Some(Until::Released { .. }) => self.give_back(tally),
            Some(Until::Deleted(_)) | None => {}
        }
    }

    /// Notes that the thread detached a thread state and deleted it.
    pub(crate) fn note_deletion(&self, tally: &Tally, state: *mut PyThreadState) {
        if self.made.get() == state {
            self.note_making(null_mut());
        }
        if self.hold().is_some_and(|hold| hold.until == Until::Deleted(state)) {
            self.give_back(tally);
        }
    }

    /// Gives the hold back, when nothing is attached: the interpreter may be gone as soon as it is not held any
    /// more.
    pub(crate) fn give_back(&self, tally: &Tally) {
        if let Some(hold) = self.hold() {
            self.set_hold(None);
            self.seen.gives_back();
            hold.give_back(tally);
        }
    }

    /// Forgets the thread: it ends, and comes to no Release any more.
    pub(crate) fn forget(&self, tally: &Tally) {
        self.give_back(tally);
        self.seen.delist();
    }

    /// Takes over a hold that was counted a moment ago on the gate of `record`, in that life of the record.
    pub(crate) fn take(&'static self, record: &'static Record, life: usize) {
        let until = Until::Released { ensures: 0, counted: 0, alone: false };
        self.set_hold(Some(Hold { record, process: generation(), life, is_tallied: false, until }));
        if !self.seen.is_known() {
            self.seen.enlist();
        }
    }

    /// Returns the interpreter that the thread holds, if it holds one.
    pub(crate) fn held(&self) -> Option<&'static Record> {
        self.hold().map(|hold| hold.record)
    }

    /// Notes that this thread conducts the exit of `record` from now on.
    pub(crate) fn set_finalizes(&self, record: &'static Record) {
        self.finalizes.set(Some((record, record.life())));
    }

    /// Returns whether this thread conducts the exit of `record`'s interpreter, or of the main one.
    pub(crate) fn finalizes(&self, record: &'static Record) -> bool {
        self.finalizes.get().is_some_and(|(own, life)| {
            own.life() == life && (own.is_main() || core::ptr::eq(own, record))
        })
    }
}
