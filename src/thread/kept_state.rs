//! The thread state that a thread keeps between its Ensures, if it asked for that.

use core::cell::Cell;

use crate::gate::record::Record;
use crate::python::{Api, Forgotten, GilstateMemory, PyThreadState};
use crate::system::generation::generation;

/// What a thread keeps. Only the thread itself uses it.
pub(crate) struct KeptState {
    /// Whether the thread asked for it.
    is_asked: Cell<bool>,
    /// Gives the thread state back when the thread ends. `attach` has the function, because giving back attaches the
    /// thread. `None`: the thread never asked.
    give_back: Cell<Option<fn()>>,
    state: Cell<Option<State>>,
    /// Whether CPython has made `PyGILState` forget the thread state.
    is_displaced: Cell<bool>,
}

/// A thread state. Its interpreter may be gone, and then so is the thread state.
#[derive(Clone, Copy)]
struct State {
    memory: GilstateMemory,
    /// The life that the main interpreter's record had when the thread state was made.
    life: usize,
    /// The process in which it was made. The child of a fork may not have the thread state any more.
    process: usize,
}

impl KeptState {
    pub(super) fn new() -> KeptState {
        KeptState {
            is_asked: Cell::new(false),
            give_back: Cell::new(None),
            state: Cell::new(None),
            is_displaced: Cell::new(false),
        }
    }

    /// Asks for thread states to be kept, until [`KeptState::stop`].
    pub(crate) fn begin(&self, give_back: fn()) {
        self.is_asked.set(true);
        self.give_back.set(Some(give_back));
    }

    pub(crate) fn stop(&self) {
        self.is_asked.set(false);
    }

    /// Returns whether the thread keeps a thread state that an Ensure has made for it in this interpreter. It keeps
    /// those of the main interpreter only. A subinterpreter cannot end while another thread's state is in it, and no
    /// thread can take the state away from the thread that keeps it.
    #[inline(always)]
    pub(crate) fn is_wanted(&self, record: &Record) -> bool {
        self.is_asked.get() && record.is_main()
    }

    /// Keeps the attached thread state, which `PyGILState` knows. Returns `false` if that cannot be.
    #[cold]
    pub(crate) fn keep_attached(&self, py: &Api, record: &Record) -> bool {
        let state = GilstateMemory::of_this_thread(py).map(|memory| State {
            memory,
            life: record.life(),
            process: generation(),
        });
        self.state.set(state);
        self.is_displaced.set(false);
        state.is_some()
    }

    /// Notes whether CPython has made `PyGILState` forget the thread state.
    pub(crate) fn set_displaced(&self, is_displaced: bool) {
        self.is_displaced.set(is_displaced);
    }

    /// Returns why `PyGILState` may have forgotten the thread state.
    pub(crate) fn forgotten(&self) -> Forgotten {
        if self.is_displaced.get() {
            Forgotten::ByCPython
        } else {
            Forgotten::ByTheCLibrary
        }
    }

    /// Returns the kept thread state of the interpreter that has the record now.
    pub(crate) fn of(&self, record: &Record) -> Option<GilstateMemory> {
        let state = self.state.get()?;
        (state.life == record.life() && state.process == generation()).then_some(state.memory)
    }

    /// Forgets the thread state.
    pub(crate) fn forget(&self) {
        self.state.set(None);
    }

    /// Returns whether the thread keeps this thread state now.
    pub(crate) fn is(&self, state: *mut PyThreadState) -> bool {
        self.state.get().is_some_and(|kept| kept.memory.is_of(state))
    }

    /// Gives back what the thread keeps, at its end.
    pub(super) fn end(&self) {
        if let Some(give_back) = self.give_back.get() {
            give_back();
        }
    }
}
