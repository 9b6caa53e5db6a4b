//! The process's one registry of records, the main interpreter's record, and the lobby where exits wait.

use core::fmt;

use super::gate::Lobby;
use super::record::Record;
use super::records::Registry;
use super::tally::ROLL;
use crate::support::sync::{lock, Mutex, MutexGuard};

/// The main interpreter's record.
static MAIN: Record = Record::new(true);

/// The lobby where the finalization of any interpreter waits.
pub(crate) static LOBBY: Lobby = Lobby::new();

static REGISTRY: Mutex<Registry> = Mutex::new(Registry::new(&MAIN));

pub(crate) fn registry() -> MutexGuard<'static, Registry> {
    lock(&REGISTRY)
}

#[inline]
pub(crate) fn main() -> &'static Record {
    &MAIN
}

impl Record {
    /// Returns how many guards are out. The answer is exact only after a heavy fence (`fence.rs`).
    pub(crate) fn guards(&self) -> usize {
        self.gate.guards() + self.striped() + ROLL.sum(self.owner())
    }

    /// Returns how many calls of `PyGILState_Ensure` hold the interpreter. This too is exact only after a heavy
    /// fence.
    pub(crate) fn legacy_guards(&self) -> usize {
        self.legacy.guards() + ROLL.sum(self.owner().of_gilstate())
    }

    /// Returns what messages call the interpreter.
    pub(crate) fn name(&self) -> impl fmt::Display + '_ {
        struct Name<'a>(&'a Record);
        impl fmt::Display for Name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.0.is_main() {
                    f.write_str("the main interpreter")
                } else {
                    write!(f, "subinterpreter {}", self.0.id())
                }
            }
        }
        Name(self)
    }

    /// Counts one view less. Returns `false` if there was none.
    pub(crate) fn drop_view(&'static self) -> bool {
        registry().drop_view(self)
    }
}
