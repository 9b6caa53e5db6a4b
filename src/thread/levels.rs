//! The Ensures of a thread that wait for their Release: a stack whose top is looked at, added to and
//! taken away with an instruction or two each.
//!
//! A call into Python may come back to the library, which then adds levels, and moves them all for want of room. So
//! nothing here lends a level: who asks gets a copy, and what is changed is named by its index.

use std::cell::Cell;

use super::hold::Hold;
use crate::gate::record::Record;
use crate::gate::registry::main;
use crate::python::{GilstateSlot, PyThreadState};

/// One Ensure that waits for its Release.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    pub(crate) record: &'static Record,
    /// What this Ensure attached, or found attached.
    pub(crate) state: *mut PyThreadState,
    /// What the Release has to show; 0: nothing.
    pub(crate) token: usize,
    /// Keeps the interpreter from finalizing until Release, if this kind of Ensure does.
    pub(crate) hold: Option<Hold>,
    pub(crate) way: Way,
    pub(crate) let_go: LetGo,
}

impl Level {
    /// None, below all of a thread.
    pub(crate) fn bottom() -> Level {
        // An address that no thread state has.
        let state = std::ptr::NonNull::dangling().as_ptr();
        let (record, let_go) = (main(), LetGo::default());
        Level { record, state, token: 0, hold: None, way: Way::Reused, let_go }
    }
}

/// How an Ensure came to its thread state, and so what its Release has to do.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// Was attached already.
    Reused,
    /// Was attached, and `PyGILState` had to be told so.
    Told(GilstateSlot),
    /// Was this thread's last thread state, detached.
    Reattached,
    /// Made for this Ensure, of a thread with nothing attached, nor known to `PyGILState`.
    First,
    /// Made for this Ensure; `outer` was attached before, or nothing.
    Created { outer: *mut PyThreadState, slot: Option<GilstateSlot> },
}

impl Way {
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Way::First | Way::Created { .. })
    }
}

/// What `SetDaemon(1)` inside an Ensure took from around it, for the Release to give back.
#[derive(Clone, Copy, Default)]
pub(crate) struct LetGo {
    /// This level's own hold was taken: at this depth, with 1 for the outermost Ensure.
    pub(crate) inside: u16,
    /// Inside this level were taken [`LetGo::OUTER`] and [`LetGo::KEPT`].
    pub(crate) what: u16,
}

/// So many Ensures deep; beyond 65,535 all is one.
pub(crate) fn depth(levels: usize) -> u16 {
    u16::try_from(levels).unwrap_or(u16::MAX)
}

impl LetGo {
    /// Holds of outer levels.
    pub(crate) const OUTER: u16 = 1;
    /// What the thread state kept by itself.
    pub(crate) const KEPT: u16 = 2;

    /// Nothing was taken inside this level.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.what == 0
    }

    /// Nor from it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.what == 0 && self.inside == 0
    }
}

/// Of one thread, which alone uses it. Outermost first: that one has index 0.
pub(crate) struct Levels {
    /// The innermost one; with none, the bottom: a level that is no Ensure's, below them all.
    top: Cell<*mut Level>,
    bottom: Cell<*mut Level>,
    /// The last that there is room for.
    last: Cell<*mut Level>,
    /// The memory. Its own length stays 0, for levels need no dropping.
    memory: Cell<Vec<Level>>,
}

impl Levels {
    const AT_FIRST: usize = 8;

    /// `None`: out of memory.
    pub(crate) fn new() -> Option<Levels> {
        let (bottom, last, memory) = room_for(Levels::AT_FIRST)?;
        // SAFETY: there is room for so many.
        unsafe { bottom.write(Level::bottom()) };
        Some(Levels {
            top: Cell::new(bottom),
            bottom: Cell::new(bottom),
            last: Cell::new(last),
            memory: Cell::new(memory),
        })
    }

    /// The innermost level, or the bottom.
    #[inline(always)]
    pub(crate) fn top(&self) -> Level {
        // SAFETY: in the memory, and initialized.
        unsafe { *self.top.get() }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: both are in the memory.
        unsafe { self.top.get().offset_from(self.bottom.get()) as usize }
    }

    /// Whether there is more than one.
    #[inline(always)]
    pub(crate) fn are_nested(&self) -> bool {
        // By the address, without a division.
        self.top.get() > self.bottom.get().wrapping_add(1)
    }

    /// `None`: there is none.
    #[inline]
    pub(crate) fn innermost(&self) -> Option<Level> {
        (self.top.get() != self.bottom.get()).then(|| self.top())
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<Level> {
        // SAFETY: initialized, up to the top.
        self.place(index).map(|place| unsafe { *place })
    }

    /// All that are there when it is their turn.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = Level> + '_ {
        (0..).map_while(|index| self.get(index))
    }

    fn place(&self, index: usize) -> Option<*mut Level> {
        // SAFETY: those from above the bottom to the top are in the memory.
        (index < self.len()).then(|| unsafe { self.bottom.get().add(1 + index) })
    }

    /// Nothing happens without such a level, here and below.
    fn set(&self, index: usize, level: Level) {
        if let Some(place) = self.place(index) {
            // SAFETY: in the memory; levels need no dropping.
            unsafe { place.write(level) };
        }
    }

    pub(crate) fn set_hold(&self, index: usize, hold: Option<Hold>) {
        if let Some(mut level) = self.get(index) {
            level.hold = hold;
            self.set(index, level);
        }
    }

    pub(crate) fn take_hold(&self, index: usize) -> Option<Hold> {
        let hold = self.get(index)?.hold?;
        self.set_hold(index, None);
        Some(hold)
    }

    pub(crate) fn set_let_go(&self, index: usize, let_go: LetGo) {
        if let Some(mut level) = self.get(index) {
            level.let_go = let_go;
            self.set(index, level);
        }
    }

    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.top.get() != self.last.get()
    }

    /// Makes room for one more, if there is none. `false`: out of memory.
    #[inline]
    pub(crate) fn make_room(&self) -> bool {
        self.has_room() || self.grow()
    }

    #[cold]
    fn grow(&self) -> bool {
        let used = self.len() + 1;
        let Some((bottom, last, memory)) = room_for(2 * used) else { return false };
        // SAFETY: the old memory has so many levels, and the new one more room.
        unsafe {
            bottom.copy_from_nonoverlapping(self.bottom.get(), used);
            self.top.set(bottom.add(used - 1));
        }
        self.bottom.set(bottom);
        self.last.set(last);
        self.memory.set(memory);
        true
    }

    /// # Safety
    /// There is room.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, level: Level) {
        debug_assert!(self.has_room());
        // SAFETY: inside the memory, says the caller.
        unsafe {
            let next = self.top.get().add(1);
            next.write(level);
            self.top.set(next);
        }
    }

    /// Takes the innermost one away.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self) {
        debug_assert!(self.len() != 0);
        // SAFETY: above the bottom, says the caller.
        self.top.set(unsafe { self.top.get().sub(1) });
    }

    /// Takes one away; those inside it move outwards.
    pub(crate) fn remove(&self, index: usize) {
        let inside = self.len().saturating_sub(index + 1);
        if let Some(place) = self.place(index) {
            // SAFETY: so many levels follow it.
            unsafe {
                place.copy_from(place.add(1), inside);
                self.pop();
            }
        }
    }
}

/// Memory for so many: the first, the last, and who owns it. `None`: there is not so much.
fn room_for(count: usize) -> Option<(*mut Level, *mut Level, Vec<Level>)> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).ok()?;
    let first: *mut Level = memory.as_mut_ptr();
    // SAFETY: inside the memory.
    let last = unsafe { first.add(memory.capacity() - 1) };
    Some((first, last, memory))
}
