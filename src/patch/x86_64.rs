//! Writes and recognizes jumps on x86-64.

use super::change::{Change, Why};

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const REACH: usize = 1 << 31;
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const JMP: u8 = 0xe9;

/// Returns where the jump goes that a function begins with, if it begins with a jump.
pub(super) fn target(entry: usize, code: &[u8; 16]) -> Option<usize> {
    let skip = if code[..4] == ENDBR64 { 4 } else { 0 };
    let distance = code[skip + 1..skip + 5].try_into().map(i32::from_le_bytes).ok()?;
    (code[skip] == JMP).then(|| (entry + skip + 5).wrapping_add_signed(distance as isize))
}

pub(super) fn jump(entry: usize, code: &[u8; 16], to: usize) -> Result<Change, Why> {
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

/// How many bytes of a jump are written last. The first byte takes the place of a `ret`, which may be executed until
/// then.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) const FIRST: usize = 1;

/// Returns whether the function only returns, and there is room for a jump before the next function. The library
/// knows what compilers leave there.
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

/// Returns the length of an instruction that does nothing, and that compilers fill gaps with.
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

/// Returns `jmp *[rip]`, and the address.
pub(super) fn jump_anywhere(to: usize) -> [u8; 16] {
    let mut bytes = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xcc, 0xcc];
    bytes[6..14].copy_from_slice(&(to as u64).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(first: &[u8]) -> [u8; 16] {
        let mut code = [0x90; 16];
        code[..first.len()].copy_from_slice(first);
        code
    }

    #[test]
    fn jumps_forwards_and_backwards() {
        let push = code(&[0x55, 0x53, 0x48, 0x83, 0xec, 0x08]);
        let change = jump(0x10_0000, &push, 0x20_0000).unwrap();
        assert_eq!(change, Change::new(0x10_0000, &[0xe9, 0xfb, 0xff, 0x0f, 0x00]));
        assert_eq!(change.inside(), 0x10_0001..0x10_0005);
        let change = jump(0x20_0000, &push, 0x10_0000).unwrap();
        assert_eq!(change, Change::new(0x20_0000, &[0xe9, 0xfb, 0xff, 0xef, 0xff]));
    }

    #[test]
    fn keeps_the_landing_pad() {
        let endbr64 = code(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53]);
        let change = jump(0x10_0000, &endbr64, 0x10_0009).unwrap();
        assert_eq!(change, Change::new(0x10_0004, &[0xe9, 0, 0, 0, 0]));
        assert_eq!(change.inside(), 0x10_0005..0x10_0009);
    }

    #[test]
    fn recognizes_its_jump() {
        for first in [&[0x55, 0x53][..], &[0xf3, 0x0f, 0x1e, 0xfa, 0x53]] {
            let mut code = code(first);
            assert_eq!(target(0x40_0000, &code), None);
            let change = jump(0x40_0000, &code, 0x30_0010).unwrap();
            let skip = change.at - 0x40_0000;
            code[skip..skip + change.length].copy_from_slice(&change.bytes[..change.length]);
            assert_eq!(target(0x40_0000, &code), Some(0x30_0010));
            assert_eq!(jump(0x40_0000, &code, 0x30_0010), Err(Why::Taken));
        }
    }

    #[test]
    fn does_not_reach_everything() {
        let far = jump(0x10_0000, &code(&[0x55]), 0x10_0000 + (1 << 32));
        assert_eq!(far, Err(Why::NoPage(libc::ENOMEM)));
    }

    #[test]
    fn knows_a_function_that_does_nothing() {
        const LONG: [u8; 11] = [0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let with = |first: &[u8], rest: &[u8]| is_empty(&code(&[first, rest].concat()));
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
    fn jumps_anywhere() {
        let expected = [0xff, 0x25, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0xcc, 0xcc];
        assert_eq!(jump_anywhere(0x0102_0304_0506_0708), expected);
    }
}
