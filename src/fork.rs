//! The forked child: guards of the parent mean nothing in it.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::birth;
use crate::interpreter::{self, Registry};
use crate::seatbelt::{self, AtFini, Seen};
use crate::sync::MutexGuard;
use crate::tally::{Roll, Tally, ROLL};
use crate::thread::Thread;
use crate::trace;

/// How many forks lie between this process and the one that loaded the library.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

#[inline]
pub(crate) fn generation() -> usize {
    // Relaxed: changes only in a child that has a single thread.
    GENERATION.load(Ordering::Relaxed)
}

/// The locks of the library that a child may come to, held across a fork so that the child finds whole data.
struct Held {
    registry: MutexGuard<'static, Registry>,
    _lobby: MutexGuard<'static, ()>,
    roll: MutexGuard<'static, Vec<&'static Tally>>,
    slips: trace::Slips,
    legacy: MutexGuard<'static, Vec<&'static Seen>>,
    _at_fini: MutexGuard<'static, Vec<AtFini>>,
    _seatbelt: seatbelt::Locks,
}

thread_local! {
    /// Between `before` and `in_parent` or `in_child`, in the forking thread. Without a
    /// destructor, so that a thread may fork while it ends.
    static HELD: Cell<Option<ManuallyDrop<Held>>> = const { Cell::new(None) };
}

/// Has the library told of forks. Called at the first use that leaves anything to tell of.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Two threads may do it at once: handlers that find their work done do nothing. Not one after the other: the child of
    // a fork in between would wait for a thread that it does not have.
    // Relaxed: the C library has a lock for its list.
    if !WATCHED.load(Ordering::Relaxed) {
        // SAFETY: the handlers stay loaded: the library is linked with `nodelete`.
        let failed =
            unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } != 0;
        // Out of memory: the next use tries again.
        WATCHED.store(!failed, Ordering::Relaxed);
    }
}

/// Whether this thread forks.
pub(crate) fn is_under_way_here() -> bool {
    let held = HELD.take();
    let is_under_way = held.is_some();
    HELD.set(held);
    is_under_way
}

unsafe extern "C" fn before() {
    if is_under_way_here() {
        return;
    }
    let seatbelt = seatbelt::hold_locks();
    birth::suspend();
    let registry = interpreter::registry();
    let lobby = interpreter::LOBBY.enter();
    let roll = ROLL.lock();
    let slips = trace::hold_slips();
    let legacy = seatbelt::hold_threads();
    let at_fini = seatbelt::hold_at_fini();
    HELD.set(Some(ManuallyDrop::new(Held {
        registry,
        _lobby: lobby,
        roll,
        slips,
        legacy,
        _at_fini: at_fini,
        _seatbelt: seatbelt,
    })));
}

unsafe extern "C" fn in_parent() {
    let Some(held) = HELD.take() else { return };
    drop(ManuallyDrop::into_inner(held));
    birth::resume();
}

unsafe extern "C" fn in_child() {
    // Only the forking thread lives on. It holds all locks, so nothing is half done.
    let Some(mut held) = HELD.take() else { return };
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let own = Thread::known();
    Roll::forget_parent(&mut held.roll, own.map(|thread| &thread.tally));
    own.into_iter().for_each(Thread::forget_parent);
    for record in held.registry.everything() {
        record.gate.forget_parent();
        record.legacy.forget_parent();
        record.forget_handles();
    }
    held.slips.forget_parent();
    seatbelt::forget_parent(&mut held.legacy);
    drop(ManuallyDrop::into_inner(held));
    birth::resume_alone();
    interpreter::forget_requests();
}
