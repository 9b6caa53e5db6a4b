//! The Ensures of a thread that wait for their Release: a stack whose top is looked at, added to and
//! taken away with an instruction or two each.

use std::ops::{Deref, DerefMut};

use crate::attach::Level;

/// Outermost first.
pub(crate) struct Levels {
    /// The innermost one; with none, the bottom: a level that is no Ensure's, below them all.
    top: *mut Level,
    /// The last that there is room for.
    last: *mut Level,
    /// The memory. Its own length stays 0, for levels need no dropping.
    memory: Vec<Level>,
}

impl Levels {
    const AT_FIRST: usize = 8;

    /// `None`: out of memory.
    pub(crate) fn new() -> Option<Levels> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(Levels::AT_FIRST).ok()?;
        let bottom: *mut Level = memory.as_mut_ptr();
        // SAFETY: there is room for so many.
        unsafe {
            bottom.write(Level::bottom());
            Some(Levels { top: bottom, last: bottom.add(memory.capacity() - 1), memory })
        }
    }

    /// The innermost level, or the bottom.
    #[inline(always)]
    pub(crate) fn top(&self) -> &Level {
        // SAFETY: in the memory, and initialized.
        unsafe { &*self.top }
    }

    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.top != self.last
    }

    /// Makes room for one more, if there is none. `false`: out of memory.
    #[inline]
    pub(crate) fn make_room(&mut self) -> bool {
        self.has_room() || self.grow()
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let used = self.len() + 1;
        let mut memory = Vec::new();
        if memory.try_reserve_exact(2 * used).is_err() {
            return false;
        }
        let bottom: *mut Level = memory.as_mut_ptr();
        // SAFETY: the old memory has so many levels, and the new one more room.
        unsafe {
            bottom.copy_from_nonoverlapping(self.memory.as_ptr(), used);
            let last = bottom.add(memory.capacity() - 1);
            *self = Levels { top: bottom.add(used - 1), last, memory };
        }
        true
    }

    /// # Safety
    /// There is room.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, level: Level) {
        debug_assert!(self.has_room());
        // SAFETY: inside the memory, says the caller.
        unsafe {
            let next = self.top.add(1);
            next.write(level);
            self.top = next;
        }
    }

    /// Takes the innermost one away, if there is one.
    pub(crate) fn take(&mut self) -> Option<Level> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the one that is taken away is not used again.
        unsafe {
            let level = self.top.read();
            self.pop();
            Some(level)
        }
    }

    /// Takes the innermost one away.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    pub(crate) unsafe fn pop(&mut self) {
        debug_assert!(!self.is_empty());
        // SAFETY: above the bottom, says the caller.
        self.top = unsafe { self.top.sub(1) };
    }
}

impl Deref for Levels {
    type Target = [Level];

    #[inline]
    fn deref(&self) -> &[Level] {
        let bottom = self.memory.as_ptr();
        // SAFETY: those from above the bottom to the top are initialized.
        unsafe {
            let count = self.top.cast_const().offset_from(bottom) as usize;
            std::slice::from_raw_parts(bottom.add(1), count)
        }
    }
}

impl DerefMut for Levels {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Level] {
        let (count, bottom) = (self.len(), self.memory.as_mut_ptr());
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(bottom.add(1), count) }
    }
}
