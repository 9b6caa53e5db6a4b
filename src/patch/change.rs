//! One change of code: which bytes are written where, and why a change cannot be made.

use core::ffi::c_int;
use core::fmt;
use core::ops::Range;

use super::stop;
use crate::os::OsError;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is a jump already.
    Taken,
    /// No memory for a page of the library can be had within reach of a jump, or the page cannot be executed.
    NoPage(i32),
    /// The code cannot be made writable.
    Sealed(i32),
    Stop(stop::Why),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Taken => f.write_str("somebody else has redirected it"),
            Why::NoPage(number) => {
                write!(f, "no executable memory near it can be had ({})", OsError(*number))
            }
            Why::Sealed(number) => {
                write!(f, "its code may not be changed in this process ({})", OsError(*number))
            }
            Why::Stop(why) => why.fmt(f),
        }
    }
}

/// What is to be written where.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Change {
    pub(super) at: usize,
    pub(super) bytes: [u8; 8],
    pub(super) length: usize,
    /// How the page is protected, besides read, write and execute.
    pub(super) guard: c_int,
}

impl Change {
    pub(super) fn new(at: usize, bytes: &[u8]) -> Change {
        let mut change = Change { at, bytes: [0; 8], length: bytes.len(), guard: 0 };
        change.bytes[..bytes.len()].copy_from_slice(bytes);
        change
    }

    pub(super) fn end(&self) -> usize {
        self.at + self.length
    }

    /// Writes the bytes, all at once if one store can do that. Then a thread that could not be stopped, and that
    /// comes back from a system call at this moment, finds the old bytes or the new ones. One store cannot do that
    /// if the bytes are on both sides of a [`BLOCK`]'s end. Compilers place no function like that, unless they are
    /// told to save space.
    ///
    /// # Safety
    /// The bytes can be written to.
    pub(super) unsafe fn write(&self) {
        let block_ends = self.at - self.at % BLOCK + BLOCK;
        if self.end() > block_ends {
            // SAFETY: the caller made the page writable, and nobody else writes there now.
            return unsafe {
                (self.at as *mut u8).copy_from_nonoverlapping(self.bytes.as_ptr(), self.length)
            };
        }
        let word = self.at.min(block_ends - 8);
        let offset = self.at - word;
        let mut bytes = [0; 8];
        // SAFETY: the word is in the same page, which can be written to, and is within a block. Nobody else writes
        // there now.
        unsafe {
            (word as *const u8).copy_to_nonoverlapping(bytes.as_mut_ptr(), 8);
            bytes[offset..offset + self.length].copy_from_slice(&self.bytes[..self.length]);
            store(word, u64::from_ne_bytes(bytes));
        }
    }

    /// Returns the change that brings back the bytes that are there now.
    ///
    /// # Safety
    /// The bytes can be read.
    pub(super) unsafe fn undoing(&self) -> Change {
        let mut undoing = Change { bytes: [0; 8], ..*self };
        // SAFETY: the caller promises that the bytes can be read. A change has no more bytes than it has room for.
        unsafe {
            (self.at as *const u8).copy_to_nonoverlapping(undoing.bytes.as_mut_ptr(), self.length);
        }
        undoing
    }

    /// Returns where no thread may be. A thread may be at the very beginning: it finds the new instruction.
    pub(super) fn inside(&self) -> Range<usize> {
        self.at + 1..self.end()
    }
}

/// Blocks of this many bytes begin at the multiples of this number. Within a block [`store`] writes a word in one
/// step: x86-64 can do that at any address of a cache line, and aarch64 at multiples of the word's size.
const BLOCK: usize = if cfg!(target_arch = "x86_64") { 64 } else { 8 };

/// Writes a word of code in one step. This is not an atomic of Rust's: ThreadSanitizer has no place to note an
/// access to code, and an atomic has to be aligned.
///
/// # Safety
/// The word can be written to, and is within a [`BLOCK`].
unsafe fn store(at: usize, word: u64) {
    // SAFETY: the caller promises that the word can be written to, and is within a block. An exchange locks the
    // cache line. The other instruction stores an aligned word.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("xchg qword ptr [{}], {}", in(reg) at, inout(reg) word => _, options(nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("str {1}, [{0}]", in(reg) at, in(reg) word, options(nostack, preserves_flags));
    }
}
