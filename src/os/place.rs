//! Room for a text, in memory that is there already.

use core::fmt;

/// The rest of the room. What does not fit is cut off, and is an error.
pub(crate) struct Place<'a>(pub(crate) &'a mut [u8]);

impl fmt::Write for Place<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let place = core::mem::take(&mut self.0);
        let fits = more.len().min(place.len());
        let (written, rest) = place.split_at_mut(fits);
        written.copy_from_slice(&more.as_bytes()[..fits]);
        self.0 = rest;
        if fits < more.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write as _;

    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let mut room = [b'.'; 8];
        assert!(write!(Place(&mut room[..7]), "{}-{}", 12, 34).is_ok());
        assert_eq!(&room, b"12-34...");
        assert!(write!(Place(&mut room[..7]), "{}-{}", 123, 456789).is_err());
        assert_eq!(&room, b"123-456.");
    }
}
