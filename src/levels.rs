//! The Ensures of a thread that wait for their Release: a stack whose top is looked at, added to and
//! taken away with an instruction or two each.
//!
//! A call into Python may come back to the library, which then adds levels, and moves them all for want of room. So
//! nothing here lends a level: who asks gets a copy, and what is changed is named by its index.

use std::cell::Cell;

use crate::attach::{Hold, Level};
use crate::daemon::LetGo;

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
