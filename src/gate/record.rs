//! The record of an interpreter: where it comes from, how long it names that interpreter, and when
//! another one may have it.
//!
//! Pure concurrency, as `gate.rs`: an interpreter is an address here, and nothing calls Python.

use std::ffi::c_void;

use super::gate::{Gate, Lobby};
use super::tally::{Owner, Tally};
use crate::support::memory::try_box;
use crate::support::sync::{const_fn, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Records are this far apart, so that a handle has low bits to spare (`capi/handle.rs`).
pub(crate) const RECORD_ALIGN: usize = 1024;

/// Where an interpreter is. NULL: nowhere any more.
pub(crate) type Address = *mut c_void;

/// What the library knows of one interpreter.
///
/// A record's memory is never given back, only used again for another interpreter. So reading
/// one through a stale handle is defined, and `life` tells that the handle is stale.
///
/// A handle may lead to a slip instead (`thread/slip.rs`), which begins like this.
#[repr(C, align(1024))]
pub(crate) struct Record {
    /// [`STAMP`] plus how often the record was given to a new interpreter.
    stamp: AtomicUsize,
    /// What a guard's handle, and a view's, is now: see `capi/handle.rs`, which alone writes and
    /// reads them. 0: not known.
    pub(crate) handles: [AtomicUsize; 2],
    pub(crate) gate: Gate,
    /// NULL when the interpreter is gone, from before its address can be another one's.
    address: AtomicPtr<c_void>,
    /// CPython's number for it, never given twice in one run of the runtime.
    id: AtomicI64,
    /// How many exit callbacks are in place. Not zero means that finalization will wait.
    pub(crate) callbacks: AtomicUsize,
    /// How many views there are. They keep the record from another interpreter.
    views: AtomicUsize,
    /// When one of its thread states last dropped what it held by itself: see `attach/holding.rs`, which alone
    /// writes and reads it. 0: never.
    pub(crate) dropped: AtomicU64,
    /// The main interpreter's. Views of it outlive `Py_FinalizeEx`, and may come before
    /// `Py_Initialize`: they name "main", whichever run of the runtime that is. So no other
    /// interpreter ever has this record.
    is_main: bool,
    /// The door of `PyGILState_Ensure` (`seatbelt`), which is waited for on other terms.
    pub(crate) legacy: Gate,
}

/// Marks memory as a record.
const STAMP: usize = 0x7265_6667_0000_0000_u64 as usize;

impl Record {
    const_fn! {
        pub(crate) fn new(is_main: bool) -> Record {
            Record {
                stamp: AtomicUsize::new(STAMP),
                handles: [AtomicUsize::new(0), AtomicUsize::new(0)],
                gate: Gate::new(),
                address: AtomicPtr::new(std::ptr::null_mut()),
                id: AtomicI64::new(0),
                callbacks: AtomicUsize::new(0),
                views: AtomicUsize::new(0),
                dropped: AtomicU64::new(0),
                is_main,
                legacy: Gate::new(),
            }
        }
    }

    /// The record at `address`, if there is one.
    ///
    /// # Safety
    /// `address` is readable and aligned for a record.
    #[inline]
    pub(crate) unsafe fn at(address: usize) -> Option<&'static Record> {
        let record = address as *const Record;
        // SAFETY: readable, says the caller. Where it is a record, it always is one.
        unsafe {
            // Relaxed: the upper half never changes.
            let stamp = (*std::ptr::addr_of!((*record).stamp)).load(Ordering::Relaxed);
            (stamp >> 16 == STAMP >> 16).then(|| &*record)
        }
    }

    /// Which of the interpreters that had this record it is now.
    #[inline]
    pub(crate) fn life(&self) -> usize {
        // Relaxed: a handle that came from another thread came with a happens-before of its own.
        self.stamp.load(Ordering::Relaxed) & 0xffff
    }

    /// Handles of this life, or of the process before a fork, are to be looked at closely.
    pub(crate) fn forget_handles(&self) {
        for handle in &self.handles {
            // Relaxed: see `life`.
            handle.store(0, Ordering::Relaxed);
        }
    }

    fn begin_another_life(&self) {
        self.forget_handles();
        // Relaxed: see `life`.
        self.stamp.store(STAMP | ((self.life() + 1) & 0xffff), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_main(&self) -> bool {
        self.is_main
    }

    /// The interpreter, or NULL once it is gone.
    #[inline]
    pub(crate) fn address(&self) -> Address {
        // Acquire: pairs with the store that makes the record an interpreter's.
        self.address.load(Ordering::Acquire)
    }

    pub(crate) fn id(&self) -> i64 {
        // Relaxed: whoever found the interpreter here found its number too.
        self.id.load(Ordering::Relaxed)
    }

    /// Whether the exit callback is in place.
    #[inline]
    pub(crate) fn is_installed(&self) -> bool {
        // Acquire: pairs with the registration. That a callback is dropped at the same time is
        // no worse than its being dropped right after.
        self.callbacks.load(Ordering::Acquire) != 0
    }

    /// One more view of this record.
    #[inline]
    pub(crate) fn add_view(&self) {
        // Relaxed: whoever adds a view has one, or the interpreter, that keeps the record.
        self.views.fetch_add(1, Ordering::Relaxed);
    }

    /// What names it, in the life it has now, in tallies.
    #[inline]
    pub(crate) fn owner(&self) -> Owner {
        Owner::new(std::ptr::from_ref(self) as usize, self.life())
    }

    /// Takes a hold by [`Gate::enter_by`], of the interpreter that the record names now.
    #[inline(always)]
    pub(crate) fn enter_by(&self, tally: &Tally, lobby: &Lobby) -> bool {
        self.enter_gate_by(&self.gate, tally, lobby, |owner| owner)
    }

    /// The same at the door of `PyGILState_Ensure`.
    #[inline(always)]
    pub(crate) fn enter_legacy_by(&self, tally: &Tally, lobby: &Lobby) -> bool {
        self.enter_gate_by(&self.legacy, tally, lobby, |owner| owner.of_gilstate())
    }

    #[inline(always)]
    fn enter_gate_by(
        &self,
        gate: &Gate,
        tally: &Tally,
        lobby: &Lobby,
        kind: impl FnOnce(Owner) -> Owner,
    ) -> bool {
        let owner = self.owner();
        if !gate.enter_by(tally, kind(owner), lobby) {
            return false;
        }
        // The gate may be open again, for the next run of the runtime, which does not wait for holds
        // of the one before. Who has seen it opened sees the new life too.
        let same = self.owner() == owner;
        if !same {
            gate.leave_by(tally, lobby);
        }
        same
    }

    /// Whether the guard that the caller just took is of the interpreter at `address`; if not, gives
    /// it back. For callers that found the record by the address: that alone does not keep it from
    /// becoming another interpreter's before the guard is out.
    pub(crate) fn confirm(&self, address: Address, lobby: &Lobby) -> bool {
        let same = self.address() == address;
        if !same {
            let _ = self.gate.leave(lobby);
        }
        same
    }

    /// This record in the life it has now, as an address for a capsule.
    pub(crate) fn ticket(&'static self) -> *mut c_void {
        let address = std::ptr::from_ref(self) as usize;
        (address | (self.life() % RECORD_ALIGN)) as *mut c_void
    }

    /// The record of a ticket, if it is still in that life.
    ///
    /// # Safety
    /// `ticket` comes from [`Record::ticket`].
    pub(crate) unsafe fn of_ticket(ticket: *mut c_void) -> Option<&'static Record> {
        let address = ticket as usize & !(RECORD_ALIGN - 1);
        // SAFETY: a record's address, and records are never freed.
        let record = unsafe { &*(address as *const Record) };
        (record.ticket() == ticket).then_some(record)
    }

    fn begin(&self, address: Address, id: i64) {
        self.id.store(id, Ordering::Relaxed);
        self.callbacks.store(0, Ordering::Relaxed);
        // Release: whoever finds the interpreter finds the rest.
        self.address.store(address, Ordering::Release);
        // Last, so that who gets in, by a view of "main" from before, finds the interpreter there.
        self.legacy.reopen();
        self.gate.reopen();
    }

    /// Whether nothing names the interpreter any more. A guard may, when the interpreter ended
    /// unguarded: it is yet to be closed, and must not be missed by another one's gate.
    ///
    /// Tallies are not asked: a thread counts a hold there while it has a thread state in the interpreter, and CPython
    /// lets no subinterpreter end that has one too many.
    fn is_unused(&self) -> bool {
        // Relaxed: read under the registry's lock, where views are dropped. And neither a view
        // nor a guard comes to a record that has none, nor an interpreter.
        self.address.load(Ordering::Relaxed).is_null()
            && self.views.load(Ordering::Relaxed) == 0
            && self.gate.guards() == 0
    }
}

/// All records. It is behind one lock, under which interpreters and their last views go, so that one of
/// them comes last, and gives the record up.
pub(crate) struct Registry {
    main: &'static Record,
    /// Every record but the main interpreter's.
    all: Vec<&'static Record>,
    free: Vec<&'static Record>,
}

impl Registry {
    pub(crate) const fn new(main: &'static Record) -> Registry {
        Registry { main, all: Vec::new(), free: Vec::new() }
    }

    /// The records of all interpreters that are alive.
    pub(crate) fn live(&self) -> impl Iterator<Item = &'static Record> + Clone + '_ {
        self.everything().filter(|record| !record.address().is_null())
    }

    pub(crate) fn everything(&self) -> impl Iterator<Item = &'static Record> + Clone + '_ {
        std::iter::once(self.main).chain(self.all.iter().copied())
    }

    /// The record of the interpreter at `address`, if it is alive.
    pub(crate) fn find(&self, address: Address) -> Option<&'static Record> {
        self.live().find(|record| record.address() == address)
    }

    /// A record for a subinterpreter. `None`: out of memory.
    pub(crate) fn claim(&mut self, address: Address, id: i64) -> Option<&'static Record> {
        let record = self.unused()?;
        record.begin(address, id);
        Some(record)
    }

    /// A record to view an interpreter by that is too far gone to be known: it is refused for
    /// ever. `None`: out of memory.
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
        // `release` pushes to it where nothing may fail.
        self.free.try_reserve(self.all.len() + 1).ok()?;
        let record: &'static Record = Box::leak(try_box(Record::new(false))?);
        self.all.push(record);
        Some(record)
    }

    /// A new run of the runtime, or the first: the main record is that one's.
    pub(crate) fn reopen_main(&mut self, address: Address) {
        // Guards of the run before are none of this one.
        self.main.begin_another_life();
        self.main.begin(address, 0);
    }

    /// One view less. `false`: there was none.
    pub(crate) fn drop_view(&mut self, record: &'static Record) -> bool {
        // Relaxed: the lock brings what was done with the view to who has the record next.
        let before = record
            .views
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |views| views.checked_sub(1));
        if before.is_ok() && record.is_unused() {
            self.release(record);
        }
        before.is_ok()
    }

    /// The interpreter is gone. The caller knows, under the lock, that it is the one that has the
    /// record now: by the record's life, or by its address.
    pub(crate) fn bury(&mut self, record: &'static Record) {
        record.gate.condemn();
        record.legacy.condemn();
        record.callbacks.store(0, Ordering::Relaxed);
        // Relaxed: what changes the address has the lock.
        record.address.store(std::ptr::null_mut(), Ordering::Relaxed);
        if record.is_unused() {
            self.release(record);
        }
    }

    /// Nothing names the interpreter any more. The life ends here and not with the next one's
    /// beginning, so that nobody who was late buries it twice.
    fn release(&mut self, record: &'static Record) {
        if !record.is_main {
            record.begin_another_life();
            self.free.push(record);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "record_model.rs"]
mod model;
