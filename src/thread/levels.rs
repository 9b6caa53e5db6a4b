//! The stack of a thread's Ensures that wait for their Release.
//!
//! To look at the top level, to add one and to take one away cost an instruction or two each.
//!
//! A call into Python may come back to the library. Then the library adds levels, and moves all of them if there is
//! no room. So no function here lends a level: a caller gets a copy, and names the level that it changes by its
//! index.

use alloc::vec::Vec;
use core::cell::Cell;

use super::hold::Hold;
use crate::gate::record::Record;
use crate::gate::registry::main;
use crate::python::{GilstateSlot, PyThreadState};

/// One Ensure that waits for its Release.
#[derive(Clone, Copy)]
pub(crate) struct Level {
    pub(crate) record: &'static Record,
    /// The thread state that this Ensure attached, or found attached.
    pub(crate) state: *mut PyThreadState,
    /// The token that the Release has to show. 0 means none.
    pub(crate) token: usize,
    /// The hold that keeps the interpreter from finalizing until the Release, if this kind of Ensure has one.
    pub(crate) hold: Option<Hold>,
    pub(crate) way: Way,
    pub(crate) let_go: LetGo,
}

impl Level {
    /// Returns the bottom, which is below all levels of a thread and is no Ensure.
    pub(crate) fn bottom() -> Level {
        // No thread state has this address.
        let state = core::ptr::NonNull::dangling().as_ptr();
        let (record, let_go) = (main(), LetGo::default());
        Level { record, state, token: 0, hold: None, way: Way::Reused, let_go }
    }
}

/// How an Ensure got its thread state. This says what its Release has to do.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// The thread state was attached already.
    Reused,
    /// The thread state was attached already, and `PyGILState` had to be told so.
    Told(GilstateSlot),
    /// The thread state was this thread's last one, and was detached.
    Reattached,
    /// The thread state was made for this Ensure. The thread had nothing attached, and nothing that `PyGILState`
    /// knew.
    First,
    /// The thread state was made for this Ensure. `outer` was attached before, or is NULL if nothing was.
    Created { outer: *mut PyThreadState, slot: Option<GilstateSlot> },
}

impl Way {
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Way::First | Way::Created { .. })
    }
}

/// Notes what `SetDaemon(1)`, called inside an Ensure, took from around that Ensure. The Release gives it back.
#[derive(Clone, Copy, Default)]
pub(crate) struct LetGo {
    /// The depth of the Ensure inside which this level's own hold was taken. The outermost Ensure has depth 1. 0
    /// means that the hold was not taken.
    pub(crate) inside: u16,
    /// What was taken inside this level: [`LetGo::OUTER`], [`LetGo::KEPT`], both, or nothing.
    pub(crate) what: u16,
}

/// Returns the depth of so many Ensures. All depths from 65,535 on are the same.
pub(crate) fn depth(levels: usize) -> u16 {
    u16::try_from(levels).unwrap_or(u16::MAX)
}

impl LetGo {
    /// The holds of outer levels.
    pub(crate) const OUTER: u16 = 1;
    /// The hold that the thread state kept by itself.
    pub(crate) const KEPT: u16 = 2;

    /// Returns whether nothing was taken inside this level.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.what == 0
    }

    /// Returns whether nothing was taken inside this level, and nothing from it.
    pub(crate) fn is_untouched(&self) -> bool {
        self.what == 0 && self.inside == 0
    }
}

/// The levels of one thread. Only that thread uses them. The outermost one has index 0.
pub(crate) struct Levels {
    /// The innermost level. If there is none, this is the bottom: a level below all others that is no Ensure.
    top: Cell<*mut Level>,
    bottom: Cell<*mut Level>,
    /// The last place that there is room for.
    last: Cell<*mut Level>,
    /// The memory of the levels. The vector's own length stays 0, because levels need no dropping.
    memory: Cell<Vec<Level>>,
}

impl Levels {
    const AT_FIRST: usize = 8;

    /// Makes an empty stack. Returns `None` if there is no memory.
    pub(crate) fn new() -> Option<Levels> {
        let (bottom, last, memory) = room_for(Levels::AT_FIRST)?;
        // SAFETY: the memory has room for `AT_FIRST` levels, and the bottom is the first.
        unsafe { bottom.write(Level::bottom()) };
        Some(Levels {
            top: Cell::new(bottom),
            bottom: Cell::new(bottom),
            last: Cell::new(last),
            memory: Cell::new(memory),
        })
    }

    /// Returns the innermost level, or the bottom.
    #[inline(always)]
    pub(crate) fn top(&self) -> Level {
        // SAFETY: the top is in the memory, and is initialized.
        unsafe { *self.top.get() }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: both pointers are in the memory of the levels.
        unsafe { self.top.get().offset_from(self.bottom.get()) as usize }
    }

    /// Returns whether there is more than one level.
    #[inline(always)]
    pub(crate) fn are_nested(&self) -> bool {
        // This compares addresses, because to count levels takes a division.
        self.top.get() > self.bottom.get().wrapping_add(1)
    }

    /// Returns the innermost level, or `None` if there is no level.
    #[inline]
    pub(crate) fn innermost(&self) -> Option<Level> {
        (self.top.get() != self.bottom.get()).then(|| self.top())
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<Level> {
        // SAFETY: all levels up to the top are initialized.
        self.place(index).map(|place| unsafe { *place })
    }

    /// Returns the levels, outermost first. Each is looked up when it is its turn, so levels may come and go
    /// meanwhile.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = Level> + '_ {
        (0..).map_while(|index| self.get(index))
    }

    fn place(&self, index: usize) -> Option<*mut Level> {
        // SAFETY: the levels from above the bottom to the top are in the memory.
        (index < self.len()).then(|| unsafe { self.bottom.get().add(1 + index) })
    }

    /// Changes a level. If there is no such level, nothing happens, as in the functions below.
    fn set(&self, index: usize, level: Level) {
        if let Some(place) = self.place(index) {
            // SAFETY: the place is in the memory, and levels need no dropping.
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

    /// Notes that the thread state goes with the Release of this level.
    pub(crate) fn set_first(&self, index: usize) {
        if let Some(mut level) = self.get(index) {
            level.way = Way::First;
            self.set(index, level);
        }
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

    /// Makes room for one more level, if there is none. Returns `false` if there is no memory.
    #[inline]
    pub(crate) fn make_room(&self) -> bool {
        self.has_room() || self.grow()
    }

    #[cold]
    fn grow(&self) -> bool {
        let used = self.len() + 1;
        let Some((bottom, last, memory)) = room_for(2 * used) else { return false };
        // SAFETY: the old memory has `used` levels, and the new memory has room for more.
        unsafe {
            bottom.copy_from_nonoverlapping(self.bottom.get(), used);
            self.top.set(bottom.add(used - 1));
        }
        self.bottom.set(bottom);
        self.last.set(last);
        self.memory.set(memory);
        true
    }

    /// Adds a level.
    ///
    /// # Safety
    /// There is room.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, level: Level) {
        debug_assert!(self.has_room());
        // SAFETY: there is room by this function's contract, so the next place is in the memory.
        unsafe {
            let next = self.top.get().add(1);
            next.write(level);
            self.top.set(next);
        }
    }

    /// Takes the innermost level away.
    ///
    /// # Safety
    /// There is a level.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self) {
        debug_assert!(self.len() != 0);
        // SAFETY: there is a level by this function's contract, so the top is above the bottom.
        self.top.set(unsafe { self.top.get().sub(1) });
    }

    /// Takes one level away. The levels inside it move outwards.
    pub(crate) fn remove(&self, index: usize) {
        let inside = self.len().saturating_sub(index + 1);
        if let Some(place) = self.place(index) {
            // SAFETY: `inside` levels follow this place.
            unsafe {
                place.copy_from(place.add(1), inside);
                self.pop();
            }
        }
    }
}

/// Returns memory for so many levels: the first place, the last place, and the vector that owns the memory. Returns
/// `None` if there is not so much memory.
fn room_for(count: usize) -> Option<(*mut Level, *mut Level, Vec<Level>)> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).ok()?;
    let first: *mut Level = memory.as_mut_ptr();
    // SAFETY: the last place is in the memory.
    let last = unsafe { first.add(memory.capacity() - 1) };
    Some((first, last, memory))
}
