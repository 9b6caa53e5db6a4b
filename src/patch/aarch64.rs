//! Writes and recognizes jumps on aarch64.

use super::change::{Change, Why};

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
    let bytes: [u8; 4] = core::array::from_fn(|byte| code[index * 4 + byte]);
    u32::from_le_bytes(bytes)
}

fn has_landing_pad(code: &[u8; 16]) -> bool {
    matches!(word(code, 0), BTI_C | BTI_JC)
}

pub(super) fn target(entry: usize, code: &[u8; 16]) -> Option<usize> {
    let skip = usize::from(has_landing_pad(code));
    let instruction = word(code, skip);
    // A signed number of 26 bits, in words.
    let distance = ((instruction << 6) as i32 >> 6) as isize * 4;
    (instruction & B_MASK == B).then(|| (entry + skip * 4).wrapping_add_signed(distance))
}

pub(super) fn b(from: usize, to: usize) -> Result<u32, Why> {
    let distance = to.wrapping_sub(from) as isize;
    let fits = distance % 4 == 0 && (-(1 << 27)..1 << 27).contains(&distance);
    fits.then_some(B | ((distance >> 2) as u32 & !B_MASK)).ok_or(Why::NoPage(libc::ENOMEM))
}

pub(super) fn jump(entry: usize, code: &[u8; 16], to: usize) -> Result<Change, Why> {
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

/// How many bytes of a jump are written last: one instruction takes the place of another.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
pub(super) const FIRST: usize = 4;

/// Returns whether the function only returns.
pub(super) fn is_empty(code: &[u8; 16]) -> bool {
    const RET: u32 = 0xd65f_03c0;
    word(code, usize::from(has_landing_pad(code))) == RET
}

/// Returns `ldr x16, [pc, 8]; br x16`, and the address.
pub(super) fn jump_anywhere(to: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&0x5800_0050_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&0xd61f_0200_u32.to_le_bytes());
    bytes[8..].copy_from_slice(&(to as u64).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> [u8; 16] {
        let mut code = [0; 16];
        for (index, word) in words.iter().enumerate() {
            code[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        code
    }

    #[test]
    fn knows_a_function_that_does_nothing() {
        const RET: u32 = 0xd65f_03c0;
        assert!(is_empty(&words(&[RET])));
        assert!(is_empty(&words(&[0xd503_245f, RET])));
        assert!(!is_empty(&words(&[0xa9be_7bfd, RET])));
    }

    #[test]
    fn jumps_forwards_and_backwards() {
        // stp x29, x30, [sp, -32]!
        let stp = words(&[0xa9be_7bfd]);
        let change = jump(0x10_0000, &stp, 0x10_0010).unwrap();
        assert_eq!(change, Change::new(0x10_0000, &0x1400_0004_u32.to_le_bytes()));
        assert!(change.inside().all(|address| address % 4 != 0));
        let change = jump(0x10_0010, &stp, 0x10_0000).unwrap();
        assert_eq!(change, Change::new(0x10_0010, &0x17ff_fffc_u32.to_le_bytes()));
        assert!(jump(0x10_0000, &stp, 0x10_0000 + (1 << 27)).is_err());
        assert!(jump(1 << 28, &stp, (1 << 28) - (1 << 27)).is_ok());
    }

    #[test]
    fn keeps_or_makes_a_landing_pad() {
        let change = jump(0x10_0000, &words(&[0xd503_245f]), 0x10_0014).unwrap();
        assert_eq!(change, Change::new(0x10_0004, &0x1400_0004_u32.to_le_bytes()));
        let change = jump(0x10_0000, &words(&[0xd503_233f]), 0x10_0014).unwrap();
        let expected = words(&[0xd503_245f, 0x1400_0004]);
        assert_eq!(change, Change::new(0x10_0000, &expected[..8]));
        // No thread may be behind the signing of the return address.
        assert!(change.inside().contains(&0x10_0004));
    }

    #[test]
    fn recognizes_its_jump() {
        for (first, skip) in [(0xa9be_7bfd, 0), (0xd503_245f, 1)] {
            let mut code = [first; 2];
            code[skip] = 0x17ff_fffc;
            assert_eq!(target(0x10_0010, &words(&[first])), None);
            assert_eq!(target(0x10_0010, &words(&code)), Some(0x10_0000 + skip * 4));
        }
    }

    #[test]
    fn jumps_anywhere() {
        let bytes = jump_anywhere(0x0102_0304_0506_0708);
        assert_eq!(bytes, words(&[0x5800_0050, 0xd61f_0200, 0x0506_0708, 0x0102_0304]));
    }
}
