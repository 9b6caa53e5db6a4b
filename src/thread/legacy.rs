//! What a thread has to do with `PyGILState`: its hold on an interpreter while it is inside `PyGILState_Ensure`.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use super::seen::Seen;
use crate::gate::record::Record;
use crate::gate::registry::{main, LOBBY};
use crate::gate::tally::Tally;
use crate::python::PyThreadState;
use crate::system::generation::generation;

/// Keeps an interpreter from finalizing, for a while: see `exit/calls.rs`.
#[derive(Clone, Copy)]
struct Hold {
    record: &'static Record,
    process: usize,
    life: usize,
    /// Whether it is in the thread's tally, instead of the gate.
    is_tallied: bool,
    until: Until,
}

/// What ends a thread's hold.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Until {
    /// As many detaching Releases as there are Ensures that attached. `counted`: the calls counted in the thread state with
    /// the first of them. `alone`: there was no Python code under that.
    Released { ensures: usize, counted: c_int, alone: bool },
    /// The deletion of the thread state of a scope.
    Deleted(*mut PyThreadState),
}

impl Hold {
    fn is_valid(&self) -> bool {
        self.process == generation() && self.life == self.record.life()
    }

    /// In the thread that took it, whose tally this is.
    fn give_back(self, tally: &Tally) {
        if self.is_tallied {
            // Whatever became of the interpreter, it is in the tally. But not in a child's.
            if self.process == generation() {
                self.record.legacy.leave_by(tally, &LOBBY);
            }
        } else if self.is_valid() {
            let _ = self.record.legacy.leave(&LOBBY);
        }
    }
}

/// The interpreter that a thread chose, in the life that its record had.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    record: &'static Record,
    life: usize,
}

impl Chosen {
    pub(crate) fn now(record: &'static Record) -> Chosen {
        Chosen { record, life: record.life() }
    }

    /// Its record. `None`: it is gone.
    pub(crate) fn record(self) -> Option<&'static Record> {
        (self.record.life() == self.life && !self.record.interpreter().is_null())
            .then_some(self.record)
    }
}

pub(crate) type Choice = Cell<Option<Chosen>>;

/// What a thread has to do with `PyGILState`.
pub(crate) struct Legacy {
    hold: Cell<Option<Hold>>,
    /// The record, and its life, whose exit this thread conducts.
    finalizes: Cell<Option<(&'static Record, usize)>>,
    /// The thread state that an Ensure made for it.
    made: Cell<*mut PyThreadState>,
    /// Whether that outlived the call, as another counted a call in it.
    is_kept: Cell<bool>,
    /// Where it is to be attached while it has no thread state.
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

    /// The thread's hold, of whichever kind.
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

    /// Takes a hold on the main interpreter for an Ensure of a thread that has none, where no exit has begun. `false`: not
    /// this way.
    #[inline(always)]
    pub(crate) fn enter_quickly(&self, tally: &Tally) -> bool {
        let main = main();
        // Not free: a hold of another life, or of a parent process, is still to be given back.
        self.seen.quick.is_free() && main.is_installed() && main.enter_legacy_by(tally, &LOBBY)
    }

    /// Notes that hold. `counted`: the calls counted in the thread state with that Ensure.
    #[inline(always)]
    pub(crate) fn note_quick(&self, counted: c_int) {
        self.seen.quick.set(main().life(), counted);
    }

    /// Whether so many calls are counted since the Ensure that took such a hold.
    #[inline(always)]
    pub(crate) fn is_quick(&self, counted: c_int) -> bool {
        counted != 0 && self.seen.quick.counted() == counted
    }

    /// Gives such a hold back.
    #[inline(always)]
    pub(crate) fn leave_quickly(&self, tally: &Tally) {
        self.seen.quick.free();
        self.seen.gives_back();
        main().legacy.leave_by(tally, &LOBBY);
    }

    /// Whether an Ensure made this thread state.
    #[inline(always)]
    pub(crate) fn has_made(&self, state: *mut PyThreadState) -> bool {
        self.made.get() == state
    }

    /// Whether the thread is inside a call that holds its interpreter.
    pub(crate) fn is_holding(&self) -> bool {
        self.hold().is_some_and(|hold| hold.is_valid())
    }

    /// From now on it is until that.
    pub(crate) fn keep(&self, until: Until) {
        self.set_hold(self.hold().map(|hold| Hold { until, ..hold }));
    }

    /// An Ensure attached a thread state that it found, or made, and counted itself in there.
    pub(crate) fn note_ensure(&self, count: c_int) {
        if let Some(Until::Released { ensures, counted, alone }) =
            self.hold().map(|hold| hold.until)
        {
            let counted = if ensures == 0 { count } else { counted };
            self.keep(Until::Released { ensures: ensures + 1, counted, alone });
        }
    }

    /// An Ensure made a thread state.
    pub(crate) fn note_making(&self, state: *mut PyThreadState) {
        self.made.set(state);
        self.is_kept.set(false);
    }

    /// Whether the thread state that a Release is about to detach goes, though a call is counted in it still: who keeps
    /// it attaches it without a word (cffi up to 2.0), so that the thread could not be kept out when it is too late.
    pub(crate) fn goes_nevertheless(&self, state: *mut PyThreadState, over_python: bool) -> bool {
        /// Relaxed: nothing else is told by it.
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

    /// A Release detached the thread. `over_python`: from a thread state with Python code.
    pub(crate) fn note_release(&self, tally: &Tally, over_python: bool) {
        match self.hold().map(|hold| hold.until) {
            Some(Until::Released { ensures, counted, alone }) if ensures > 1 => {
                self.keep(Until::Released { ensures: ensures - 1, counted, alone });
            }
            // The Release of something inside that attached by other means, as cffi does.
            Some(Until::Released { alone: true, .. }) if over_python => {}
            Some(Until::Released { .. }) => self.give_back(tally),
            Some(Until::Deleted(_)) | None => {}
        }
    }

    /// The thread detached a thread state and deleted it.
    pub(crate) fn note_deletion(&self, tally: &Tally, state: *mut PyThreadState) {
        if self.made.get() == state {
            self.note_making(null_mut());
        }
        if self.hold().is_some_and(|hold| hold.until == Until::Deleted(state)) {
            self.give_back(tally);
        }
    }

    /// When nothing is attached: the interpreter may be gone the moment it is not held any more.
    pub(crate) fn give_back(&self, tally: &Tally) {
        if let Some(hold) = self.hold() {
            self.set_hold(None);
            self.seen.gives_back();
            hold.give_back(tally);
        }
    }

    /// The thread ends, and comes to no Release any more.
    pub(crate) fn forget(&self, tally: &Tally) {
        self.give_back(tally);
        self.seen.delist();
    }

    /// Takes a hold that was just counted on the gate of `record`, in that life of it.
    pub(crate) fn take(&'static self, record: &'static Record, life: usize) {
        let until = Until::Released { ensures: 0, counted: 0, alone: false };
        self.set_hold(Some(Hold { record, process: generation(), life, is_tallied: false, until }));
        if !self.seen.is_known() {
            self.seen.enlist();
        }
    }

    /// The interpreter that it holds, if it does.
    pub(crate) fn held(&self) -> Option<&'static Record> {
        self.hold().map(|hold| hold.record)
    }

    /// From now on this thread conducts the exit of `record`.
    pub(crate) fn set_finalizes(&self, record: &'static Record) {
        self.finalizes.set(Some((record, record.life())));
    }

    /// Whether this thread conducts the exit of an interpreter, or of the main one.
    pub(crate) fn finalizes(&self, record: &'static Record) -> bool {
        self.finalizes.get().is_some_and(|(own, life)| {
            own.life() == life && (own.is_main() || std::ptr::eq(own, record))
        })
    }
}
