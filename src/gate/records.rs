//! All records: which of them are of living interpreters, and which ones another interpreter may have.
//!
//! The code here is pure concurrency, as in `gate.rs`. `registry.rs` has the registry of the process.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::record::{Address, Record};
use crate::support::memory::try_box;
use crate::support::sync::Ordering;

/// All records. They are behind one lock. Interpreters end, and their last views are closed, under this lock. So
/// one of these comes last, and gives the record up.
pub(crate) struct Registry {
    main: &'static Record,
    /// Every record except the main interpreter's.
    all: Vec<&'static Record>,
    free: Vec<&'static Record>,
}

impl Registry {
    pub(crate) const fn new(main: &'static Record) -> Registry {
        Registry { main, all: Vec::new(), free: Vec::new() }
    }

    /// Returns the records of all interpreters that are alive.
    pub(crate) fn live(&self) -> impl Iterator<Item = &'static Record> + Clone + '_ {
        self.everything().filter(|record| !record.address().is_null())
    }

    pub(crate) fn everything(&self) -> impl Iterator<Item = &'static Record> + Clone + '_ {
        core::iter::once(self.main).chain(self.all.iter().copied())
    }

    /// Returns the record of the interpreter at `address`, if that interpreter is alive.
    pub(crate) fn find(&self, address: Address) -> Option<&'static Record> {
        self.live().find(|record| record.address() == address)
    }

    /// Returns a record for a subinterpreter, or `None` if there is no memory.
    pub(crate) fn claim(&mut self, address: Address, id: i64) -> Option<&'static Record> {
        let record = self.unused()?;
        record.begin(address, id);
        Some(record)
    }

    /// Returns a record for a view of an interpreter whose end is too far on for a record of its own. Such a view
    /// is always refused. Returns `None` if there is no memory.
    pub(crate) fn claim_for_the_dying(&mut self) -> Option<&'static Record> {
        let record = self.unused()?;
        record.gate.condemn();
        record.add_view();
        Some(record)
    }

    fn unused(&mut self) -> Option<&'static Record> {
        if let Some(record) = self.free.pop() {
            return Some(record);
        }
        self.all.try_reserve(1).ok()?;
        // `release` pushes to `free`, where nothing may fail.
        self.free.try_reserve(self.all.len() + 1).ok()?;
        let record: &'static Record = Box::leak(try_box(Record::new(false))?);
        self.all.push(record);
        Some(record)
    }

    /// Gives the main record to a new run of the runtime, or to the first one.
    pub(crate) fn reopen_main(&mut self, address: Address) {
        // Guards of the run before are not guards of this one.
        self.main.begin_another_life();
        self.main.begin(address, 0);
    }

    /// Counts one view less. Returns `false` if there was none.
    pub(crate) fn drop_view(&mut self, record: &'static Record) -> bool {
        // Relaxed: the lock passes what was done with the view on to the next interpreter that has the record.
        let before = record
            .views
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |views| views.checked_sub(1));
        if before.is_ok() && record.is_unused() {
            self.release(record);
        }
        before.is_ok()
    }

    /// Notes that the interpreter is gone. The caller has made sure, under the lock, that this interpreter still
    /// has the record: by the record's life, or by the interpreter's address.
    pub(crate) fn bury(&mut self, record: &'static Record) {
        record.gate.condemn();
        record.legacy.condemn();
        record.callbacks.store(0, Ordering::Relaxed);
        // Relaxed: the address changes only under the lock.
        record.address.store(core::ptr::null_mut(), Ordering::Relaxed);
        if record.is_unused() {
            self.release(record);
        }
    }

    /// Gives the record up, because nothing names the interpreter any more. The life ends here, and not when the
    /// next one begins. So a thread that comes later cannot bury the interpreter twice.
    fn release(&mut self, record: &'static Record) {
        if !record.is_main {
            record.begin_another_life();
            self.free.push(record);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "records_model.rs"]
mod model;
