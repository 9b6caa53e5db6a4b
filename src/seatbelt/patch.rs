//! The bytes: a jump over the first instructions of a function.
//!
//! Preloading does not do: in an executable that carries the interpreter, and inside a shared
//! libpython that was linked so, calls of the functions go straight to their addresses.
//!
//! - *What is written* is one jump to a page of ours nearby, from which another one goes anywhere. On x86-64 it takes 5
//!   bytes, less than a call does, and on aarch64 4: so no call that is still under way returns into the
//!   bytes that are overwritten. A landing pad (`endbr64`, `bti c`) stays, or is put, before it.
//! - *Other threads* may run the function meanwhile, even be between two of the instructions that
//!   are overwritten. So they stand still, all outside of those ([`super::stop`]).
//! - *Coherence*: they go on by a return from a signal, which serializes a processor; for one whose thread
//!   was in a system call, and for the caches of aarch64, there are a barrier and cache maintenance.
//! - *Policies*: the pages of code are made writable for the moment, and stay executable, as a system that forbids
//!   that (SELinux, a sealed mapping, W^X) says so at the request, before anything is changed, and
//!   might forbid the way back. If it says no, that is the answer: no way around is tried.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;

use super::stop;
use super::tasks::last_error;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is a jump already.
    Taken,
    /// No memory for our page can be had within reach of a jump, or it cannot be executed.
    NoPage(i32),
    /// The code cannot be made writable.
    Sealed(i32),
    Stop(stop::Why),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = |number: &i32| std::io::Error::from_raw_os_error(*number);
        match self {
            Why::Taken => f.write_str("somebody else has redirected it"),
            Why::NoPage(number) => {
                write!(f, "no executable memory near it can be had ({})", error(number))
            }
            Why::Sealed(number) => {
                write!(f, "its code may not be changed in this process ({})", error(number))
            }
            Why::Stop(why) => why.fmt(f),
        }
    }
}

/// What is to be written where.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Change {
    at: usize,
    bytes: [u8; 8],
    length: usize,
    /// What its page is protected by, besides read, write and execute.
    guard: c_int,
}

impl Change {
    fn new(at: usize, bytes: &[u8]) -> Change {
        let mut change = Change { at, bytes: [0; 8], length: bytes.len(), guard: 0 };
        change.bytes[..bytes.len()].copy_from_slice(bytes);
        change
    }

    pub(super) fn end(&self) -> usize {
        self.at + self.length
    }

    /// All at once where they are within one aligned word: a thread that could not be stopped, and comes back from a
    /// system call just now, finds the old ones or the new ones.
    ///
    /// # Safety
    /// It can be written to.
    unsafe fn write(&self) {
        let offset = self.at % 8;
        if offset + self.length > 8 {
            // SAFETY: says the caller.
            return unsafe {
                (self.at as *mut u8).copy_from_nonoverlapping(self.bytes.as_ptr(), self.length)
            };
        }
        let word = self.at - offset;
        let mut bytes = [0; 8];
        // SAFETY: an aligned word of a page that can be written to; nobody else writes there now.
        unsafe {
            (word as *const u8).copy_to_nonoverlapping(bytes.as_mut_ptr(), 8);
            bytes[offset..offset + self.length].copy_from_slice(&self.bytes[..self.length]);
            store(word, u64::from_ne_bytes(bytes));
        }
    }

    /// What brings back the bytes that are there now.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn undoing(&self) -> Change {
        let mut undoing = Change { bytes: [0; 8], ..*self };
        // SAFETY: says the caller; a change has at most as many bytes as it has room for.
        unsafe {
            (self.at as *const u8).copy_to_nonoverlapping(undoing.bytes.as_mut_ptr(), self.length);
        }
        undoing
    }

    /// Where no thread may be. At the very beginning one may: it finds the new instruction.
    fn inside(&self) -> Range<usize> {
        self.at + 1..self.end()
    }
}

/// Writes a word of code, which is aligned, in one step. Not by an atomic, as ThreadSanitizer has nothing to note that for
/// code.
///
/// # Safety
/// The word can be written to.
unsafe fn store(at: usize, word: u64) {
    // SAFETY: says the caller. Both store an aligned word as a whole.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov qword ptr [{}], {}", in(reg) at, in(reg) word, options(nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("str {1}, [{0}]", in(reg) at, in(reg) word, options(nostack, preserves_flags));
    }
}

#[cfg(any(target_arch = "x86_64", test))]
pub(super) mod x86_64 {
    use super::{Change, Why};

    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) const REACH: usize = 1 << 31;
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const JMP: u8 = 0xe9;

    /// Where the jump of a function goes that begins like this, if it begins with one.
    pub(super) fn target(entry: usize, code: &[u8; 16]) -> Option<usize> {
        let skip = if code[..4] == ENDBR64 { 4 } else { 0 };
        let distance = code[skip + 1..skip + 5].try_into().map(i32::from_le_bytes).ok()?;
        (code[skip] == JMP).then(|| (entry + skip + 5).wrapping_add_signed(distance as isize))
    }

    pub(in super::super) fn jump(entry: usize, code: &[u8; 16], to: usize) -> Result<Change, Why> {
        if target(entry, code).is_some() {
            return Err(Why::Taken);
        }
        let at = if code[..4] == ENDBR64 { entry + 4 } else { entry };
        let distance = to.wrapping_sub(at + 5) as isize;
        let distance = i32::try_from(distance).map_err(|_| Why::NoPage(libc::ENOMEM))?;
        let mut bytes = [JMP, 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&distance.to_le_bytes());
        Ok(Change::new(at, &bytes))
    }

    /// Of a jump over a `ret`, so much is executed already: it comes last.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) const FIRST: usize = 1;

    /// Whether it only returns, with room for a jump before the next function: what compilers leave there is known.
    pub(super) fn is_empty(code: &[u8; 16]) -> bool {
        const RET: u8 = 0xc3;
        let code = code.strip_prefix(&ENDBR64).unwrap_or(code);
        let Some((&RET, mut rest)) = code.split_first() else { return false };
        let mut room = 0;
        while room < 4 {
            let Some(length) = padding(rest) else { return false };
            room += length;
            rest = rest.get(length..).unwrap_or_default();
        }
        true
    }

    /// The length of an instruction that does nothing, and that compilers fill gaps with.
    fn padding(code: &[u8]) -> Option<usize> {
        let prefixes = code.iter().take_while(|byte| matches!(byte, 0x66 | 0x2e)).count();
        let length = match code.get(prefixes..)? {
            [0xcc, ..] if prefixes == 0 => 1,
            [0x90, ..] => 1,
            [0x0f, 0x1f, 0x00, ..] => 3,
            [0x0f, 0x1f, 0x40, ..] => 4,
            [0x0f, 0x1f, 0x44, ..] => 5,
            [0x0f, 0x1f, 0x80, ..] => 7,
            [0x0f, 0x1f, 0x84, ..] => 8,
            _ => return None,
        };
        Some(prefixes + length)
    }

    /// `jmp *[rip]`, and the address.
    pub(in super::super) fn jump_anywhere(to: usize) -> [u8; 16] {
        let mut bytes = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcc, 0xcc];
        bytes[6..14].copy_from_slice(&(to as u64).to_le_bytes());
        bytes
    }
}

#[cfg(any(target_arch = "aarch64", test))]
pub(super) mod aarch64 {
    use super::{Change, Why};

    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    pub(super) const REACH: usize = 1 << 27;
    const BTI_C: u32 = 0xd503_245f;
    const BTI_JC: u32 = 0xd503_24df;
    /// These sign the return address, and are landing pads too.
    const PACIASP: u32 = 0xd503_233f;
    const PACIBSP: u32 = 0xd503_237f;
    const B: u32 = 0x1400_0000;
    const B_MASK: u32 = 0xfc00_0000;

    fn word(code: &[u8; 16], index: usize) -> u32 {
        let bytes: [u8; 4] = std::array::from_fn(|byte| code[index * 4 + byte]);
        u32::from_le_bytes(bytes)
    }

    fn has_landing_pad(code: &[u8; 16]) -> bool {
        matches!(word(code, 0), BTI_C | BTI_JC)
    }

    pub(super) fn target(entry: usize, code: &[u8; 16]) -> Option<usize> {
        let skip = usize::from(has_landing_pad(code));
        let instruction = word(code, skip);
        // 26 bits with a sign, in words.
        let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
        (instruction & B_MASK == B).then(|| (entry + skip * 4).wrapping_add_signed(distance))
    }

    pub(in super::super) fn b(from: usize, to: usize) -> Result<u32, Why> {
        let distance = to.wrapping_sub(from) as isize;
        let fits = distance % 4 == 0 && (-(1 << 27)..1 << 27).contains(&distance);
        fits.then_some(B | ((distance >> 2) as u32 & !B_MASK)).ok_or(Why::NoPage(libc::ENOMEM))
    }

    pub(in super::super) fn jump(entry: usize, code: &[u8; 16], to: usize) -> Result<Change, Why> {
        if target(entry, code).is_some() {
            return Err(Why::Taken);
        }
        match word(code, 0) {
            BTI_C | BTI_JC => Ok(Change::new(entry + 4, &b(entry + 4, to)?.to_le_bytes())),
            PACIASP | PACIBSP => {
                let mut bytes = [0; 8];
                bytes[..4].copy_from_slice(&BTI_C.to_le_bytes());
                bytes[4..].copy_from_slice(&b(entry + 4, to)?.to_le_bytes());
                Ok(Change::new(entry, &bytes))
            }
            _ => Ok(Change::new(entry, &b(entry, to)?.to_le_bytes())),
        }
    }

    /// One instruction takes the place of another.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    pub(super) const FIRST: usize = 4;

    /// Whether it only returns.
    pub(super) fn is_empty(code: &[u8; 16]) -> bool {
        const RET: u32 = 0xd65f_03c0;
        word(code, usize::from(has_landing_pad(code))) == RET
    }

    /// `ldr x16, [pc, 8]; br x16`, and the address.
    pub(in super::super) fn jump_anywhere(to: usize) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&0x5800_0050_u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&0xd61f_0200_u32.to_le_bytes());
        bytes[8..].copy_from_slice(&(to as u64).to_le_bytes());
        bytes
    }
}

#[cfg(target_arch = "aarch64")]
use aarch64::{is_empty, jump, jump_anywhere, target, FIRST, REACH};
#[cfg(target_arch = "x86_64")]
use x86_64::{is_empty, jump, jump_anywhere, target, FIRST, REACH};

/// The page that jumps go to: this, so that other copies of the library recognize it and what follows, a jump for
/// each redirected function, and one for each that is for other copies to call. The digit is another one whenever
/// these are.
const MARK: [u8; 16] = *b"libpep788 jumps1";

fn jump_at(page: usize, index: usize) -> usize {
    page + 16 * (index + 1)
}

/// Another copy of the library in the process, which was first.
#[derive(Debug)]
pub(crate) struct Copy {
    page: usize,
    redirected: usize,
}

impl Copy {
    /// The one that has redirected the function at `entry`.
    fn that_took(entry: usize, redirected: usize) -> Option<Copy> {
        // SAFETY: the first bytes of a function, which is longer.
        let code = unsafe { (entry as *const [u8; 16]).read_unaligned() };
        let page = target(entry, &code)? & !(page_size() - 1);
        // SAFETY: what a function jumps to is code, so its page can be read.
        let is_marked = unsafe { (page as *const [u8; 16]).read() == MARK };
        is_marked.then_some(Copy { page, redirected })
    }

    /// The address of what it had as such an item of `for_copies`.
    pub(super) fn function(&self, index: usize) -> usize {
        jump_at(self.page, self.redirected + index)
    }
}

/// Who may run the functions that are redirected.
#[derive(PartialEq, Eq)]
pub(super) enum Runners {
    AnyThread,
    /// They were just loaded.
    Nobody,
}

/// Redirects functions, each to another: all or none. Tells of another copy that has done so before.
pub(super) fn redirect(
    functions: &[(usize, usize)],
    for_copies: &[usize],
    runners: Runners,
) -> Result<Option<Copy>, Why> {
    let mut copies = functions.iter().map(|(entry, _)| Copy::that_took(*entry, functions.len()));
    if let Some(Some(copy)) = copies.next() {
        if copies.all(|other| other.is_some()) {
            return Ok(Some(copy));
        }
    }
    let page = Page::near(functions[0].0)?;
    // SAFETY: nobody knows the page yet, and it is longer.
    unsafe { (page.address as *mut [u8; 16]).write(MARK) };
    let mut changes = Vec::new();
    let mappings = mappings();
    for (index, &(entry, to)) in functions.iter().enumerate() {
        let stub = jump_at(page.address, index);
        // SAFETY: as above; and the first bytes of a function, which is longer.
        let code = unsafe {
            (stub as *mut [u8; 16]).write(jump_anywhere(to));
            (entry as *const [u8; 16]).read_unaligned()
        };
        let mut change = jump(entry, &code, stub)?;
        change.guard = guard_of(&mappings, entry);
        changes.push(change);
    }
    for (index, to) in for_copies.iter().enumerate() {
        let stub = jump_at(page.address, functions.len() + index);
        // SAFETY: as above.
        unsafe { (stub as *mut [u8; 16]).write(jump_anywhere(*to)) };
    }
    page.make_executable()?;
    if runners == Runners::Nobody {
        write(&changes)?;
    } else {
        let inside: Vec<_> = changes.iter().map(Change::inside).collect();
        // SAFETY: the functions are there, and their first bytes are not written yet.
        let undoing: Vec<_> = changes.iter().map(|it| unsafe { it.undoing() }).collect();
        // What could be written to just now can be again.
        let undo = || drop(write(&undoing));
        stop::with_all_stopped(&inside, || write(&changes), undo).map_err(Why::Stop)??;
    }
    // From now on it is jumped to.
    std::mem::forget(page);
    Ok(None)
}

/// Places code of ours within reach of a jump from `origin`, for good: what `code` gives for that address. `None`: it has
/// none, or there is no memory.
pub(super) fn place(origin: usize, code: impl FnOnce(usize) -> Option<Vec<u8>>) -> Option<usize> {
    let page = Page::near(origin).ok()?;
    let code = code(page.address).filter(|code| code.len() <= page_size())?;
    // SAFETY: nobody knows the page yet, and it is as long.
    unsafe { (page.address as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    page.make_executable().ok()?;
    let address = page.address;
    std::mem::forget(page);
    Some(address)
}

/// Has a function that does nothing go to another one. Nobody runs it meanwhile, or in a moment that a single byte takes.
pub(super) fn fill_in(entry: usize, to: usize) -> Result<(), Why> {
    // SAFETY: the first bytes of a function, and what is between it and the next one.
    let code = unsafe { (entry as *const [u8; 16]).read_unaligned() };
    if !is_empty(&code) {
        return Err(Why::Taken);
    }
    let page = Page::near(entry)?;
    let stub = jump_at(page.address, 0);
    // SAFETY: nobody knows the page yet, and it is longer. Without the mark: this is for no other copy.
    unsafe { (stub as *mut [u8; 16]).write(jump_anywhere(to)) };
    let mut change = jump(entry, &code, stub)?;
    change.guard = guard_of(&mappings(), entry);
    page.make_executable()?;
    // Its first instruction last.
    let (first, rest) = change.bytes[..change.length].split_at(change.length.min(FIRST));
    let mut changes = [Change::new(change.at + first.len(), rest), Change::new(change.at, first)];
    changes.iter_mut().for_each(|part| part.guard = change.guard);
    write(&changes)?;
    std::mem::forget(page);
    Ok(())
}

/// Whether another copy of the library has redirected the function at `entry`.
pub(super) fn is_by_a_copy(entry: usize) -> bool {
    Copy::that_took(entry, 0).is_some()
}

/// What the kernel says of all mappings, where there is such a guard.
fn mappings() -> String {
    if cfg!(target_arch = "aarch64") {
        let said = std::fs::read("/proc/self/smaps").unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    } else {
        String::new()
    }
}

/// No allocation and no lock in here: other threads stand still, and may have them.
fn write(changes: &[Change]) -> Result<(), Why> {
    let result = changes.iter().try_for_each(|change| {
        protect(change, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
    });
    if result.is_ok() {
        for change in changes {
            // SAFETY: writable now; nobody runs it, and no call returns into it.
            unsafe {
                change.write();
                clear_cache(change.at, change.length);
            }
        }
    }
    for change in changes {
        // As they were. If that is refused, nothing but a protection is lost.
        let _ = protect(change, libc::PROT_READ | libc::PROT_EXEC);
    }
    result
}

/// `PROT_BTI`, where indirect jumps into the page at `address` have to meet a landing pad. A change of its protection that
/// does not name it takes that away.
///
/// Without what the kernel says there is none.
fn guard_of(mappings: &str, address: usize) -> c_int {
    const PROT_BTI: c_int = 0x10;
    let bound = |digits| usize::from_str_radix(digits, 16).ok();
    let mut is_there = false;
    for line in mappings.lines() {
        let word = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((Some(begin), Some(end))) = word.map(|(begin, end)| (bound(begin), bound(end)))
        {
            is_there = (begin..end).contains(&address);
        } else if let (true, Some(flags)) = (is_there, line.strip_prefix("VmFlags:")) {
            let is_guarded = flags.split(' ').any(|flag| flag == "bt");
            return if is_guarded { PROT_BTI } else { 0 };
        }
    }
    0
}

fn protect(change: &Change, how: c_int) -> Result<(), Why> {
    let begin = change.at & !(page_size() - 1);
    let how = how | change.guard;
    // SAFETY: pages of code, of which nothing is taken but the ban on writing.
    let refused = unsafe { libc::mprotect(begin as *mut c_void, change.end() - begin, how) } != 0;
    if refused {
        Err(Why::Sealed(last_error()))
    } else {
        Ok(())
    }
}

/// For processors whose caches of code do not follow the memory.
unsafe fn clear_cache(at: usize, length: usize) {
    extern "C" {
        // Of `calls.c`, where the compiler knows how.
        fn pep788_clear_cache(begin: *mut c_void, end: *mut c_void);
    }
    // SAFETY: the addresses were just written.
    unsafe { pep788_clear_cache(at as *mut c_void, (at + length) as *mut c_void) }
}

fn page_size() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A page of our own; unmapped when dropped.
#[derive(Debug)]
struct Page {
    address: usize,
}

impl Page {
    /// Within reach of a jump from `origin`, with room to spare for the functions around it.
    fn near(origin: usize) -> Result<Page, Why> {
        const STEP: usize = 1 << 18;
        /// libpython is shorter than this.
        const SPARE: usize = 1 << 25;
        let origin = origin & !(STEP - 1);
        for distance in (STEP..REACH.saturating_sub(SPARE)).step_by(STEP) {
            for address in [origin.checked_sub(distance), origin.checked_add(distance)] {
                let Some(page) = address.filter(|address| *address != 0).and_then(Page::at) else {
                    continue;
                };
                return Ok(page);
            }
        }
        Err(Why::NoPage(libc::ENOMEM))
    }

    fn at(address: usize) -> Option<Page> {
        // SAFETY: a new mapping, which replaces nothing.
        let got = unsafe {
            libc::mmap(
                address as *mut c_void,
                page_size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if got == libc::MAP_FAILED {
            return None;
        }
        let page = Page { address: got as usize };
        // An old kernel takes the address for a wish.
        (page.address == address).then_some(page)
    }

    fn make_executable(&self) -> Result<(), Why> {
        // SAFETY: our own page.
        let refused = unsafe {
            clear_cache(self.address, page_size());
            let how = libc::PROT_READ | libc::PROT_EXEC;
            libc::mprotect(self.address as *mut c_void, page_size(), how) != 0
        };
        if refused {
            Err(Why::NoPage(last_error()))
        } else {
            Ok(())
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: our own page, and nothing refers to it.
        unsafe { libc::munmap(self.address as *mut c_void, page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(first: &[u8]) -> [u8; 16] {
        let mut code = [0x90; 16];
        code[..first.len()].copy_from_slice(first);
        code
    }

    fn words(words: &[u32]) -> [u8; 16] {
        let mut code = [0; 16];
        for (index, word) in words.iter().enumerate() {
            code[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        code
    }

    #[test]
    fn x86_64_jumps_forwards_and_backwards() {
        let push = code(&[0x55, 0x53, 0x48, 0x83, 0xec, 0x08]);
        let change = x86_64::jump(0x10_0000, &push, 0x20_0000).unwrap();
        assert_eq!(change, Change::new(0x10_0000, &[0xe9, 0xfb, 0xff, 0x0f, 0x00]));
        assert_eq!(change.inside(), 0x10_0001..0x10_0005);
        let change = x86_64::jump(0x20_0000, &push, 0x10_0000).unwrap();
        assert_eq!(change, Change::new(0x20_0000, &[0xe9, 0xfb, 0xff, 0xef, 0xff]));
    }

    #[test]
    fn x86_64_keeps_the_landing_pad() {
        let endbr64 = code(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53]);
        let change = x86_64::jump(0x10_0000, &endbr64, 0x10_0009).unwrap();
        assert_eq!(change, Change::new(0x10_0004, &[0xe9, 0, 0, 0, 0]));
        assert_eq!(change.inside(), 0x10_0005..0x10_0009);
    }

    #[test]
    fn x86_64_recognizes_its_jump() {
        for first in [&[0x55, 0x53][..], &[0xf3, 0x0f, 0x1e, 0xfa, 0x53]] {
            let mut code = code(first);
            assert_eq!(x86_64::target(0x40_0000, &code), None);
            let change = x86_64::jump(0x40_0000, &code, 0x30_0010).unwrap();
            let skip = change.at - 0x40_0000;
            code[skip..skip + change.length].copy_from_slice(&change.bytes[..change.length]);
            assert_eq!(x86_64::target(0x40_0000, &code), Some(0x30_0010));
            assert_eq!(x86_64::jump(0x40_0000, &code, 0x30_0010), Err(Why::Taken));
        }
    }

    #[test]
    fn x86_64_does_not_reach_everything() {
        let far = x86_64::jump(0x10_0000, &code(&[0x55]), 0x10_0000 + (1 << 32));
        assert_eq!(far, Err(Why::NoPage(libc::ENOMEM)));
    }

    #[test]
    fn x86_64_knows_a_function_that_does_nothing() {
        const LONG: [u8; 11] = [0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let with = |first: &[u8], rest: &[u8]| x86_64::is_empty(&code(&[first, rest].concat()));
        assert!(with(&[0xc3], &LONG));
        assert!(with(&[0xf3, 0x0f, 0x1e, 0xfa, 0xc3], &LONG));
        assert!(with(&[0xc3], &[0x0f, 0x1f, 0x00, 0x90]));
        assert!(with(&[0xc3], &[0xcc; 4]));
        // The next function begins too soon.
        assert!(!with(&[0xc3], &[0x0f, 0x1f, 0x00, 0x55]));
        assert!(!with(&[0xc3], &[0x48, 0x8d, 0x05]));
        assert!(!with(&[0x55, 0xc3], &LONG));
        // A jump or a breakpoint of somebody else.
        assert!(!with(&[0xe9, 0, 0, 0, 0], &LONG));
        assert!(!with(&[0xcc], &LONG));
    }

    #[test]
    fn aarch64_knows_a_function_that_does_nothing() {
        const RET: u32 = 0xd65f_03c0;
        assert!(aarch64::is_empty(&words(&[RET])));
        assert!(aarch64::is_empty(&words(&[0xd503_245f, RET])));
        assert!(!aarch64::is_empty(&words(&[0xa9be_7bfd, RET])));
    }

    #[test]
    fn x86_64_jumps_anywhere() {
        let expected = [0xff, 0x25, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0xcc, 0xcc];
        assert_eq!(x86_64::jump_anywhere(0x0102_0304_0506_0708), expected);
    }

    #[test]
    fn aarch64_jumps_forwards_and_backwards() {
        // stp x29, x30, [sp, -32]!
        let stp = words(&[0xa9be_7bfd]);
        let change = aarch64::jump(0x10_0000, &stp, 0x10_0010).unwrap();
        assert_eq!(change, Change::new(0x10_0000, &0x1400_0004_u32.to_le_bytes()));
        assert!(change.inside().all(|address| address % 4 != 0));
        let change = aarch64::jump(0x10_0010, &stp, 0x10_0000).unwrap();
        assert_eq!(change, Change::new(0x10_0010, &0x17ff_fffc_u32.to_le_bytes()));
        assert!(aarch64::jump(0x10_0000, &stp, 0x10_0000 + (1 << 27)).is_err());
        assert!(aarch64::jump(1 << 28, &stp, (1 << 28) - (1 << 27)).is_ok());
    }

    #[test]
    fn aarch64_keeps_or_makes_a_landing_pad() {
        let change = aarch64::jump(0x10_0000, &words(&[0xd503_245f]), 0x10_0014).unwrap();
        assert_eq!(change, Change::new(0x10_0004, &0x1400_0004_u32.to_le_bytes()));
        let change = aarch64::jump(0x10_0000, &words(&[0xd503_233f]), 0x10_0014).unwrap();
        let expected = words(&[0xd503_245f, 0x1400_0004]);
        assert_eq!(change, Change::new(0x10_0000, &expected[..8]));
        // After the signing of the return address nobody may be.
        assert!(change.inside().contains(&0x10_0004));
    }

    #[test]
    fn aarch64_recognizes_its_jump() {
        for (first, skip) in [(0xa9be_7bfd, 0), (0xd503_245f, 1)] {
            let mut code = [first; 2];
            code[skip] = 0x17ff_fffc;
            assert_eq!(aarch64::target(0x10_0010, &words(&[first])), None);
            assert_eq!(aarch64::target(0x10_0010, &words(&code)), Some(0x10_0000 + skip * 4));
        }
    }

    #[test]
    fn aarch64_jumps_anywhere() {
        let bytes = aarch64::jump_anywhere(0x0102_0304_0506_0708);
        assert_eq!(bytes, words(&[0x5800_0050, 0xd61f_0200, 0x0506_0708, 0x0102_0304]));
    }

    #[test]
    fn aarch64_knows_which_pages_are_guarded() {
        // As the kernel prints them, shortened.
        let mappings = "\
            ffff8a000000-ffff8a2c0000 r-xp 00000000 fe:01 1234    /usr/lib/libpython3-13.so.1.0\n\
            Size:               2816 kB\n\
            THPeligible:           0\n\
            VmFlags: rd ex mr mw me bt\n\
            ffff8a2c0000-ffff8a2d0000 rw-p 002c0000 fe:01 1234    /usr/lib/libpython3-13.so.1.0\n\
            VmFlags: rd wr mr mw me ac\n\
            ffff8a2d0000-ffff8a2e0000 r-xp 00000000 00:00 0\n\
            VmFlags: rd ex mr mw me\n";
        assert_eq!(guard_of(mappings, 0xffff_8a00_0000), 0x10);
        assert_eq!(guard_of(mappings, 0xffff_8a2b_ffff), 0x10);
        assert_eq!(guard_of(mappings, 0xffff_8a2c_0000), 0);
        assert_eq!(guard_of(mappings, 0xffff_8a2d_0000), 0);
        assert_eq!(guard_of(mappings, 0x1000), 0);
    }

    // A function that spends its time in the bytes that are overwritten, with an end after each of them.
    #[cfg(target_arch = "x86_64")]
    std::arch::global_asm!(
        ".text",
        ".globl pep788_victim",
        ".hidden pep788_victim",
        "pep788_victim:",
        "push rbp",
        "push rbx",
        "push r12",
        "mov eax, 1",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    );

    // `paciasp`, `autiasp`: by their numbers, which any assembler knows.
    #[cfg(target_arch = "aarch64")]
    std::arch::global_asm!(
        ".text",
        ".balign 4",
        ".globl pep788_victim",
        ".hidden pep788_victim",
        "pep788_victim:",
        "hint 25",
        "mov x0, 1",
        "hint 29",
        "ret",
    );

    // SAFETY: takes nothing, and gives a number.
    unsafe extern "C" {
        #[link_name = "pep788_victim"]
        safe fn victim() -> usize;
    }

    extern "C" fn replacement() -> usize {
        2
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_thousand_times_under_fire() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
        const THREADS: usize = 8;
        const TIMES: usize = 250;
        let stop = AtomicBool::new(false);
        // Odd while a change is under way; the function is as it was at every other even number.
        let step = AtomicUsize::new(0);
        let entry = victim as *const () as usize;
        let page = Page::near(entry).expect("a page");
        let stub = page.address + 16;
        // SAFETY: our page; and a function's first bytes.
        let code = unsafe {
            (stub as *mut [u8; 16]).write(jump_anywhere(replacement as *const () as usize));
            (entry as *const [u8; 16]).read_unaligned()
        };
        assert!(page.make_executable().is_ok());
        let there = jump(entry, &code, stub).unwrap();
        // SAFETY: a function that is there.
        let back = unsafe { there.undoing() };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let before = step.load(Relaxed);
                        let got = std::hint::black_box(victim as extern "C" fn() -> usize)();
                        assert!(got == 1 || got == 2, "{got}");
                        // Known before the call and after it: no change meanwhile.
                        if before % 2 == 0 && step.load(Relaxed) == before {
                            assert_eq!(got, if before % 4 == 0 { 1 } else { 2 });
                        }
                    }
                });
            }
            // One that cannot be stopped, and is in system calls most of the time.
            scope.spawn(|| {
                // SAFETY: valid places, filled in before they are read; and no preconditions.
                unsafe {
                    let mut all = std::mem::zeroed();
                    libc::sigfillset(&mut all);
                    libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
                    while !stop.load(Relaxed) {
                        let got = std::hint::black_box(victim as extern "C" fn() -> usize)();
                        assert!(got == 1 || got == 2, "{got}");
                        libc::usleep(50);
                    }
                }
            });
            for _ in 0..TIMES {
                for (change, undoing) in [(there, back), (back, there)] {
                    step.fetch_add(1, Relaxed);
                    let make = || {
                        let done = write(&[change]);
                        step.fetch_add(1, Relaxed);
                        done
                    };
                    let undo = || {
                        step.fetch_sub(1, Relaxed);
                        assert!(write(&[undoing]).is_ok());
                    };
                    let done = stop::with_all_stopped(&[change.inside()], make, undo);
                    assert!(matches!(done, Ok(Ok(()))));
                }
            }
            stop.store(true, Relaxed);
        });
    }
}
