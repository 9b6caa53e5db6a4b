//! Says which interpreter a record is of.

use super::api::PyInterpreterState;
use crate::gate::record::Record;

impl Record {
    /// Returns the interpreter, or NULL once it is gone.
    #[inline]
    pub(crate) fn interpreter(&self) -> *mut PyInterpreterState {
        self.address().cast()
    }
}
