//! The record of an interpreter: where it comes from, how long it lasts, and when it is used again.
//!
//! A record names its interpreter for one *life*. After that another interpreter may have the record.
//!
//! The code here is pure concurrency, as in `gate.rs`: an interpreter is an address, and nothing calls Python.

use core::ffi::c_void;
#[cfg(not(loom))]
use core::mem::offset_of;

use super::gate::{guards_in, Claim, Gate, Lobby, NotOut};
use super::stripe::{Stripe, STRIPES};
use super::tally::{Owner, Tally};
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
    pub(super) address: AtomicPtr<c_void>,
    /// CPython's number for the interpreter. CPython never gives a number twice in one run of the runtime.
    id: AtomicI64,
    /// How many exit callbacks are installed. If it is not zero, finalization will wait.
    pub(crate) callbacks: AtomicUsize,
    /// How many views there are. As long as there is a view, no other interpreter gets the record.
    pub(super) views: AtomicUsize,
    /// When a thread state of the interpreter last dropped the hold that it kept by itself. Only
    /// `attach/holding.rs` writes and reads this. 0 means never.
    pub(crate) dropped: AtomicU64,
    /// Whether this is the main interpreter's record. Views of the main interpreter outlive `Py_FinalizeEx`, and
    /// may be made before `Py_Initialize`: they name "main" in any run of the runtime. So no other interpreter ever
    /// has this record.
    pub(super) is_main: bool,
    /// The gate of `PyGILState_Ensure` (`seatbelt`). The exit waits for its holds by other rules.
    pub(crate) legacy: Gate,
    /// Where threads count guards apart. The fields above have cache lines of their own.
    stripes: [Stripe; STRIPES],
}

/// [`Record::count`] relies on it.
#[cfg(not(loom))]
const _: () = assert!(
    offset_of!(Record, gate) == offset_of!(Stripe, word)
        && offset_of!(Record, stripes) == size_of::<Stripe>()
        && size_of::<Record>() == RECORD_ALIGN
);

/// Marks memory as a record, above the life.
const STAMP: usize = (0x7265_6667_0000_0000_u64 >> (u64::BITS - usize::BITS)) as usize & !0xffff;

impl Record {
    const_fn! {
        pub(crate) fn new(is_main: bool) -> Record {
            Record {
                stamp: AtomicUsize::new(STAMP),
                handles: [AtomicUsize::new(0), AtomicUsize::new(0)],
                gate: Gate::new(),
                address: AtomicPtr::new(core::ptr::null_mut()),
                id: AtomicI64::new(0),
                callbacks: AtomicUsize::new(0),
                views: AtomicUsize::new(0),
                dropped: AtomicU64::new(0),
                is_main,
                legacy: Gate::new(),
                stripes: stripes(),
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
            let stamp = (*core::ptr::addr_of!((*record).stamp)).load(Ordering::Relaxed);
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
    fn forget_handles(&self) {
        for handle in &self.handles {
            // Relaxed: see `life`.
            handle.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn begin_another_life(&self) {
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

    /// Returns the word that counts the guards with this number: the word of a stripe, or of the gate for number 0.
    #[inline(always)]
    #[cfg(not(loom))]
    #[allow(clippy::modulo_one)] // where there are no stripes
    fn count(&self, number: usize) -> &AtomicUsize {
        let number = number % (STRIPES + 1);
        let stripe = core::ptr::from_ref(self).cast::<Stripe>().wrapping_add(number);
        // SAFETY: a record begins like a stripe, and its stripes follow. So there is such a word at each of these
        // places. The pointer comes from a reference to the whole record.
        unsafe { &*core::ptr::addr_of!((*stripe).word) }
    }

    #[cfg(loom)]
    fn count(&self, number: usize) -> &AtomicUsize {
        number.checked_sub(1).map_or(self.gate.word(), |index| &self.stripes[index].word)
    }

    /// Takes a guard on the stripe with this number. Returns `false` if the gate is not open: then [`Gate::enter`]
    /// decides.
    #[inline(always)]
    pub(crate) fn enter_stripe(&self, number: usize, lobby: &Lobby) -> bool {
        if STRIPES == 0 {
            // The gate's own word must not count a guard that the gate refuses.
            return self.gate.enter(Claim::View, lobby);
        }
        self.gate.enter_at(self.count(number), lobby)
    }

    /// Gives back a guard that was taken on the stripe with this number, or on the gate for number 0.
    #[inline(always)]
    pub(crate) fn leave_guard(&self, number: usize, lobby: &Lobby) -> Result<(), NotOut> {
        self.gate.leave_at(self.count(number), lobby)
    }

    /// Counts a guard on the gate from now on that was counted on the stripe with this number. Returns an error if it was
    /// not out.
    pub(crate) fn move_to_gate(&self, number: usize, lobby: &Lobby) -> Result<(), NotOut> {
        if number == 0 {
            return Ok(());
        }
        // A holder is refused only if the gate is closed, and it cannot close while the guard is out.
        if !self.gate.enter(Claim::Holder, lobby) {
            return Err(NotOut);
        }
        self.leave_guard(number, lobby)
    }

    /// Returns whether a guard is out on the stripe with this number, or on the gate for number 0.
    #[inline(always)]
    pub(crate) fn has_guard(&self, number: usize) -> bool {
        guards_in(self.count(number)) != 0
    }

    /// Returns how many guards are out on stripes.
    pub(crate) fn striped(&self) -> usize {
        self.stripes.iter().map(|stripe| guards_in(&stripe.word)).fold(0, usize::wrapping_add)
    }

    fn begin_stripes(&self) {
        self.stripes.iter().for_each(|stripe| stripe.begin(self.life()));
    }

    /// Forgets the guards in a forked child. They belonged to threads, or to plans, of the parent.
    pub(crate) fn forget_parent(&self) {
        self.gate.forget_parent();
        self.legacy.forget_parent();
        self.begin_stripes();
        self.forget_handles();
    }

    /// Returns what names this record and its current life in tallies.
    #[inline]
    pub(crate) fn owner(&self) -> Owner {
        Owner::new(core::ptr::from_ref(self) as usize, self.life())
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
        let address = core::ptr::from_ref(self) as usize;
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

    pub(super) fn begin(&self, address: Address, id: i64) {
        self.id.store(id, Ordering::Relaxed);
        self.callbacks.store(0, Ordering::Relaxed);
        // Release: a thread that finds the interpreter finds the other fields too.
        self.address.store(address, Ordering::Release);
        self.begin_stripes();
        // The gates open last. So a thread that gets in by an older view of "main" finds the interpreter there.
        self.legacy.reopen();
        self.gate.reopen();
    }

    /// Returns whether nothing names the interpreter any more. If the interpreter ended unguarded, a guard may
    /// still name it. That guard will be closed later, and must not be subtracted from another interpreter's gate.
    ///
    /// Tallies are not asked. A thread counts a hold there while it has a thread state in the interpreter, and
    /// CPython lets no subinterpreter end that has a thread state too many.
    pub(super) fn is_unused(&self) -> bool {
        // Relaxed: this is read under the registry's lock, under which views are dropped. And a record that has no
        // interpreter, no view and no guard gets none of them meanwhile.
        self.address.load(Ordering::Relaxed).is_null()
            && self.views.load(Ordering::Relaxed) == 0
            && self.gate.guards() == 0
            && self.striped() == 0
    }
}

#[cfg(not(loom))]
const fn stripes() -> [Stripe; STRIPES] {
    [const { Stripe::new() }; STRIPES]
}

#[cfg(loom)]
fn stripes() -> [Stripe; STRIPES] {
    core::array::from_fn(|_| Stripe::new())
}
