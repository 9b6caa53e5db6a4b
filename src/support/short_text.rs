//! A piece of text that needs no allocation.

use alloc::string::String;
use core::fmt;

/// It has at most `N` bytes. What does not fit is cut off at the front.
#[derive(Clone, Copy)]
pub(crate) struct ShortText<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> ShortText<N> {
    pub(crate) fn of(text: &[u8]) -> Self {
        let end = &text[text.len().saturating_sub(N)..];
        let mut bytes = [0; N];
        bytes[..end.len()].copy_from_slice(end);
        ShortText { bytes, length: end.len() }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> fmt::Display for ShortText<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}
