//! The forked child: guards of the parent mean nothing in it.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Once;

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

/// All locks of the library, held across a fork so that the child finds whole data.
struct Held {
    registry: MutexGuard<'static, Registry>,
    _lobby: MutexGuard<'static, ()>,
    roll: MutexGuard<'static, Vec<&'static Tally>>,
    slips: trace::Slips,
    legacy: MutexGuard<'static, Vec<&'static Seen>>,
    _at_fini: MutexGuard<'static, Vec<AtFini>>,
}

thread_local! {
    /// Between `before` and `in_parent` or `in_child`, in the forking thread. Without a
    /// destructor, so that a thread may fork while it ends.
    static HELD: Cell<Option<ManuallyDrop<Held>>> = const { Cell::new(None) };
}

fn let_go() {
    if let Some(held) = HELD.take() {
        drop(ManuallyDrop::into_inner(held));
    }
}

/// Has the library told of forks. Called at the first use that leaves anything to tell of.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers stay loaded: the library is linked with `nodelete`.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

unsafe extern "C" fn before() {
    seatbelt::stand_still();
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
    })));
}

unsafe extern "C" fn in_parent() {
    let_go();
    seatbelt::go_on();
}

unsafe extern "C" fn in_child() {
    // Only the forking thread lives on. It holds all locks, so nothing is half done.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Some(mut held) = HELD.take() {
        Roll::forget_parent(&mut held.roll, Thread::known().map(|thread| &thread.tally));
        for record in held.registry.everything() {
            record.gate.forget_parent();
            record.legacy.forget_parent();
            record.forget_handles();
        }
        held.slips.forget_parent();
        seatbelt::forget_parent(&mut held.legacy);
        HELD.set(Some(held));
    }
    let_go();
    seatbelt::go_on_alone();
    interpreter::forget_requests();
}
