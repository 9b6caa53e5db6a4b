//! Keeps a redirected function callable as CPython wrote it.
//!
//! A copy has the instructions that the jump takes the place of, and a jump to the instructions that follow them.
//! On x86-64, instructions that refer to their own address are rewritten; on aarch64 there is no copy of a function
//! that has one. The library knows only the instructions that
//! functions of CPython begin with, in the builds that there are. It makes no copy of a function that begins with
//! other instructions.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::page;

/// How many bytes of a function are looked at.
const LOOKED_AT: usize = 32;

/// How many functions of a CPython have a copy.
const MOST: usize = 3;

/// The addresses of functions, and of their copies.
static COPIES: [[AtomicUsize; 2]; MOST] =
    [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; MOST];

/// Returns the copy of the function at `entry`. That function is not redirected yet, or this library has redirected
/// it since the copy was made. Returns `None` if the function begins with an instruction that is not known, or if
/// there is no memory.
///
/// Only one thread at a time calls this.
pub(crate) fn of(entry: *mut c_void) -> Option<usize> {
    // Relaxed, all of them: one thread at a time comes here.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let entry = entry as usize;
    for [its, copy] in &COPIES {
        if its.load(Ordering::Relaxed) == entry {
            return Some(copy.load(Ordering::Relaxed));
        }
    }
    // SAFETY: these bytes are code, and can be read, as no function is the last one of its pages.
    let code = unsafe { (entry as *const [u8; LOOKED_AT]).read_unaligned() };
    let made = page::place(entry, |at| begin(entry, &code, at))?;
    // A CPython that came late may be gone again. Then the next CPython takes the places of its functions.
    let [its, copy] = &COPIES[NEXT.fetch_add(1, Ordering::Relaxed) % MOST];
    copy.store(made, Ordering::Relaxed);
    its.store(entry, Ordering::Relaxed);
    Some(made)
}

/// Forgets the functions. They are there no more, and other functions may come to their addresses.
pub(crate) fn forget() {
    for [its, _] in &COPIES {
        its.store(0, Ordering::Relaxed);
    }
}

#[cfg(target_arch = "aarch64")]
use aarch64::begin;
#[cfg(target_arch = "x86_64")]
use x86_64::begin;

#[cfg(any(target_arch = "x86_64", test))]
mod x86_64 {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::LOOKED_AT;
    use crate::patch::x86_64::{jump, jump_anywhere};

    const REX_W: u8 = 0x48;
    const REX_WR: u8 = 0x4c;

    /// Returns the code that is to be at `_at`. A call of that code does what a call of the function at `entry`
    /// does. `code` is the first bytes of that function.
    pub(super) fn begin(entry: usize, code: &[u8; LOOKED_AT], _at: usize) -> Option<Vec<u8>> {
        let first = code.first_chunk()?;
        let taken = jump(entry, first, entry).ok()?;
        let mut copy = Vec::new();
        let mut done = 0;
        while done < taken.end() - entry {
            let (length, bytes) = instruction(&code[done..], entry + done)?;
            copy.extend_from_slice(&bytes);
            done += length;
        }
        copy.extend_from_slice(&jump_anywhere(entry + done));
        Some(copy)
    }

    /// Returns the length of the instruction, and an instruction that does the same at any address.
    fn instruction(code: &[u8], at: usize) -> Option<(usize, Vec<u8>)> {
        let as_it_is = |length: usize| Some((length, code.get(..length)?.to_vec()));
        match *code {
            // endbr64
            [0xf3, 0x0f, 0x1e, 0xfa, ..] => as_it_is(4),
            // push
            [0x50..=0x57, ..] => as_it_is(1),
            [0x41, 0x50..=0x57, ..] => as_it_is(2),
            // mov %rsp, %rbp
            [REX_W, 0x89, 0xe5, ..] => as_it_is(3),
            // sub $..., %rsp
            [REX_W, 0x83, 0xec, _, ..] => as_it_is(4),
            [REX_W, 0x81, 0xec, _, _, _, _, ..] => as_it_is(7),
            // mov %fs:..., of a thread-local variable
            [0x64, REX_W | REX_WR, 0x8b, modrm, 0x25, ..] if modrm & 0xc7 == 0x04 => as_it_is(9),
            // lea ...(%rip)
            [0x66, REX_W | REX_WR, 0x8d, modrm, ..] if modrm & 0xc7 == 0x05 => {
                let (length, bytes) = instruction(&code[1..], at + 1)?;
                Some((length + 1, bytes))
            }
            [rex @ (REX_W | REX_WR), 0x8d, modrm, a, b, c, d, ..] if modrm & 0xc7 == 0x05 => {
                let address =
                    (at + 7).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]) as isize);
                // movabs
                let mut bytes = vec![if rex == REX_W { 0x48 } else { 0x49 }, 0xb8 | modrm >> 3 & 7];
                bytes.extend_from_slice(&address.to_le_bytes());
                Some((7, bytes))
            }
            _ => None,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn begun(first: &[u8]) -> Option<Vec<u8>> {
            let mut code = [0xcc; LOOKED_AT];
            code[..first.len()].copy_from_slice(first);
            begin(0x10_0000, &code, 0)
        }

        #[test]
        fn what_refers_to_no_address_is_copied() {
            let pushes = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x53];
            let expected = [&pushes[..], &jump_anywhere(0x10_0009)].concat();
            assert_eq!(begun(&pushes), Some(expected));
            let load = [0x64, 0x48, 0x8b, 0x3c, 0x25, 0xe8, 0xff, 0xff, 0xff];
            assert_eq!(begun(&load), Some([&load[..], &jump_anywhere(0x10_0009)].concat()));
        }

        #[test]
        fn an_address_is_the_same_elsewhere() {
            // sub $8, %rsp; data16 lea 0x1000(%rip), %rdi
            let code = [0x48, 0x83, 0xec, 8, 0x66, 0x48, 0x8d, 0x3d, 0, 0x10, 0, 0];
            let address = 0x10_000c_u64 + 0x1000;
            let movabs = [&[0x48, 0xbf][..], &address.to_le_bytes()].concat();
            let expected = [&code[..4], &movabs, &jump_anywhere(0x10_000c)].concat();
            assert_eq!(begun(&code), Some(expected));
        }

        #[test]
        fn of_what_is_not_known_there_is_no_copy() {
            assert_eq!(begun(&[0xe8, 0, 0, 0, 0]), None);
            assert_eq!(begun(&[0xe9, 0, 0, 0, 0]), None);
            assert_eq!(begun(&[0x55, 0x74, 0x10, 0x90, 0x90]), None);
        }
    }
}

#[cfg(any(target_arch = "aarch64", test))]
mod aarch64 {
    use alloc::vec::Vec;

    use super::LOOKED_AT;
    use crate::patch::aarch64::{b, jump};

    /// Does what the function for x86-64 does. The copy goes on by a jump that needs no landing pad, so the copy is
    /// near.
    pub(super) fn begin(entry: usize, code: &[u8; LOOKED_AT], at: usize) -> Option<Vec<u8>> {
        let first = code.first_chunk()?;
        let taken = jump(entry, first, entry).ok()?;
        let length = taken.end() - entry;
        let words = code[..length].chunks_exact(4);
        let refers = |word: &[u8]| {
            refers_to_its_address(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        if words.clone().any(refers) {
            return None;
        }
        let mut copy = code[..length].to_vec();
        copy.extend_from_slice(&b(at + length, entry + length).ok()?.to_le_bytes());
        Some(copy)
    }

    /// Returns whether the instruction is a jump, a call, `adr`, `adrp` or a load of a literal.
    fn refers_to_its_address(word: u32) -> bool {
        let is_branch = word & 0x1c00_0000 == 0x1400_0000 && word & 0xff00_0000 != 0xd500_0000;
        let is_adr = word & 0x1f00_0000 == 0x1000_0000;
        let is_literal = word & 0x3b00_0000 == 0x1800_0000;
        is_branch || is_adr || is_literal
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn begun(first: &[u32], at: usize) -> Option<Vec<u8>> {
            let mut code = [0; LOOKED_AT];
            for (index, word) in first.iter().enumerate() {
                code[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
            }
            begin(0x10_0000, &code, at)
        }

        #[test]
        fn one_instruction_is_copied() {
            // stp x29, x30, [sp, -32]!
            let copy = begun(&[0xa9be_7bfd], 0x20_0000).unwrap();
            let back = b(0x20_0004, 0x10_0004).ok().unwrap();
            assert_eq!(copy, [0xa9be_7bfd_u32.to_le_bytes(), back.to_le_bytes()].concat());
        }

        #[test]
        fn the_landing_pad_is_too() {
            // bti c; mrs x0, tpidr_el0
            let copy = begun(&[0xd503_245f, 0xd53b_d040], 0x20_0000).unwrap();
            assert_eq!(
                copy[..8],
                [0xd503_245f_u32.to_le_bytes(), 0xd53b_d040_u32.to_le_bytes()].concat()
            );
        }

        #[test]
        fn what_refers_to_its_address_is_not() {
            // adrp x0, ...; b ...; bl ...; cbz x0, ...; b.eq ...; ldr x0, ...
            for word in
                [0x9000_0000, 0x1400_0010, 0x9400_0010, 0xb400_0040, 0x5400_0040, 0x5800_0040]
            {
                assert_eq!(begun(&[word], 0x20_0000), None, "{word:#x}");
            }
        }
    }
}
