//! Takes a guard on the interpreter of a record.

use crate::attach::holding::is_holder;
use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::LOBBY;
use crate::python::Api;
use crate::thread::refusal::Refusal;
use crate::thread::thread::Thread;

impl Record {
    /// Takes a guard. When views are not honoured any more, only threads that already hold the interpreter get one.
    #[inline]
    pub(crate) fn take_guard(&'static self, py: &'static Api) -> Result<(), Refusal> {
        // From now on the thread counts on a stripe, if there is memory for it.
        let _ = Thread::this();
        if self.gate.enter(Claim::View, &LOBBY) {
            return Ok(());
        }
        self.take_as_holder(py)
    }

    #[cold]
    fn take_as_holder(&'static self, py: &'static Api) -> Result<(), Refusal> {
        let taken = is_holder(py, self) && self.gate.enter(Claim::Holder, &LOBBY);
        taken.then_some(()).ok_or(Refusal::Unavailable)
    }
}
