//! The record of an interpreter: where it comes from, how long it lasts, and when it is used again.
//!
//! A record names its interpreter for one *life*. After that another interpreter may have the record.
//!
//! The code here is pure concurrency, as in `gate.rs`: an interpreter is an address, and nothing calls Python.

use std::ffi::c_void;

use super::gate::{Gate, Lobby};
use super::tally::{Owner, Tally};
use crate::support::memory::try_box;
use crate::support::sync::{const_fn, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Records are aligned to this many bytes, so that a handle has free low bits (`capi/handle.rs`).
pub(crate) const RECORD_ALIGN: usize = 1024;

/// The address of an interpreter. NULL means that it is gone.
pub(crate) type Address = *mut c_void;

/// What the library knows of one interpreter.
///
/// A record's memory is never freed. It is only used again for another interpreter. So reading a record through a
/// stale handle is defined, and `life` tells that the handle is stale.
///
/// A handle may lead to a slip instead (`thread/slip.rs`). A slip begins with the same fields.
#[repr(C, align(1024))]
pub(crate) struct Record {
    /// [`STAMP`] plus how often the record was given to a new interpreter.
    stamp: AtomicUsize,
    /// The handle that a guard has now, and the handle that a view has. Only `capi/handle.rs` writes and reads
    /// handles here. 0 means that a handle is not known.
    pub(crate) handles: [AtomicUsize; 2],
    pub(crate) gate: Gate,
    /// NULL once the interpreter is gone. It becomes NULL before another interpreter can have the same address.
    address: AtomicPtr<c_void>,
    /// CPython's number for the interpreter. CPython never gives a number twice in one run of the runtime.
    id: AtomicI64,
    /// How many exit callbacks are installed. If it is not zero, finalization will wait.
    pub(crate) callbacks: AtomicUsize,
    /// How many views there are. As long as there is a view, no other interpreter gets the record.
    views: AtomicUsize,
    /// When a thread state of the interpreter last dropped the hold that it kept by itself. Only
    /// `attach/holding.rs` writes and reads this. 0 means never.
    pub(crate) dropped: AtomicU64,
    /// Whether this is the main interpreter's record. Views of the main interpreter outlive `Py_FinalizeEx`, and
    /// may be made before `Py_Initialize`: they name "main" in any run of the runtime. So no other interpreter ever
    /// has this record.
    is_main: bool,
    /// The gate of `PyGILState_Ensure` (`seatbelt`). The exit waits for its holds by other rules.
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

    /// Returns the record at `address`, if there is one.
    ///
    /// # Safety
    /// `address` is readable and aligned for a record.
    #[inline]
    pub(crate) unsafe fn at(address: usize) -> Option<&'static Record> {
        let record = address as *const Record;
        // SAFETY: the address is readable, by this function's contract. Memory that is a record always stays one.
        unsafe {
            // Relaxed: the upper half of the stamp never changes.
            let stamp = (*std::ptr::addr_of!((*record).stamp)).load(Ordering::Relaxed);
            (stamp >> 16 == STAMP >> 16).then(|| &*record)
        }
    }

    /// Returns the record's life, which tells which of its interpreters has the record now.
    #[inline]
    pub(crate) fn life(&self) -> usize {
        // Relaxed: a handle that came from another thread brought a happens-before of its own.
        self.stamp.load(Ordering::Relaxed) & 0xffff
    }

    /// Forgets the noted handles, so that handles of this life, or of the process before a fork, are checked
    /// closely.
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

    /// Returns the interpreter, or NULL once it is gone.
    #[inline]
    pub(crate) fn address(&self) -> Address {
        // Acquire: pairs with the store in `begin` that gives the record to an interpreter.
        self.address.load(Ordering::Acquire)
    }

    pub(crate) fn id(&self) -> i64 {
        // Relaxed: a thread that found the interpreter here has found its number too.
        self.id.load(Ordering::Relaxed)
    }

    /// Returns whether the exit callback is installed.
    #[inline]
    pub(crate) fn is_installed(&self) -> bool {
        // Acquire: pairs with the registration. A callback that is dropped at the same time is no worse than one
        // that is dropped right after this.
        self.callbacks.load(Ordering::Acquire) != 0
    }

    /// Counts one more view of this record.
    #[inline]
    pub(crate) fn add_view(&self) {
        // Relaxed: a thread that adds a view has a view already, or the interpreter, and that keeps the record.
        self.views.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what names this record and its current life in tallies.
    #[inline]
    pub(crate) fn owner(&self) -> Owner {
        Owner::new(std::ptr::from_ref(self) as usize, self.life())
    }

    /// Takes a hold on the interpreter that the record names now, by [`Gate::enter_by`].
    #[inline(always)]
    pub(crate) fn enter_by(&self, tally: &Tally, lobby: &Lobby) -> bool {
        self.enter_gate_by(&self.gate, tally, lobby, |owner| owner)
    }

    /// Does the same at the gate of `PyGILState_Ensure`.
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
        // The gate may be open again for the next run of the runtime, which does not wait for holds of the run
        // before. A thread that has seen the gate opened sees the new life too.
        let same = self.owner() == owner;
        if !same {
            gate.leave_by(tally, lobby);
        }
        same
    }

    /// Returns whether the guard that the caller has taken is of the interpreter at `address`. If it is not, gives
    /// the guard back. This is for callers that found the record by the address. That alone does not keep the
    /// record: it may become another interpreter's before the guard is out.
    pub(crate) fn confirm(&self, address: Address, lobby: &Lobby) -> bool {
        let same = self.address() == address;
        if !same {
            let _ = self.gate.leave(lobby);
        }
        same
    }

    /// Returns this record and its current life in one address, for a capsule.
    pub(crate) fn ticket(&'static self) -> *mut c_void {
        let address = std::ptr::from_ref(self) as usize;
        (address | (self.life() % RECORD_ALIGN)) as *mut c_void
    }

    /// Returns the record of a ticket, if the record is still in the ticket's life.
    ///
    /// # Safety
    /// `ticket` comes from [`Record::ticket`].
    pub(crate) unsafe fn of_ticket(ticket: *mut c_void) -> Option<&'static Record> {
        let address = ticket as usize & !(RECORD_ALIGN - 1);
        // SAFETY: `ticket` put the record's address there, and records are never freed.
        let record = unsafe { &*(address as *const Record) };
        (record.ticket() == ticket).then_some(record)
    }

    fn begin(&self, address: Address, id: i64) {
        self.id.store(id, Ordering::Relaxed);
        self.callbacks.store(0, Ordering::Relaxed);
        // Release: a thread that finds the interpreter finds the other fields too.
        self.address.store(address, Ordering::Release);
        // The gates open last. So a thread that gets in by an older view of "main" finds the interpreter there.
        self.legacy.reopen();
        self.gate.reopen();
    }

    /// Returns whether nothing names the interpreter any more. If the interpreter ended unguarded, a guard may
    /// still name it. That guard will be closed later, and must not be subtracted from another interpreter's gate.
    ///
    /// Tallies are not asked. A thread counts a hold there while it has a thread state in the interpreter, and
    /// CPython lets no subinterpreter end that has a thread state too many.
    fn is_unused(&self) -> bool {
        // Relaxed: this is read under the registry's lock, under which views are dropped. And a record that has no
        // interpreter, no view and no guard gets none of them meanwhile.
        self.address.load(Ordering::Relaxed).is_null()
            && self.views.load(Ordering::Relaxed) == 0
            && self.gate.guards() == 0
    }
}

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
        std::iter::once(self.main).chain(self.all.iter().copied())
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
        record.address.store(std::ptr::null_mut(), Ordering::Relaxed);
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
#[path = "record_model.rs"]
mod model;
