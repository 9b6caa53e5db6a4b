//! Handles forks: the child starts afresh, and guards of the parent mean nothing in it.
//!
//! All layers below take part. The locks that a child may come to are held across the fork, so that the child finds
//! whole data. What belongs to the parent is forgotten in the child.

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::exit::at_fini::{self, AtFini};
#[cfg(pep788_redirects)]
use crate::exit::bound;
use crate::gate::records::Registry;
use crate::gate::registry::{registry, LOBBY};
use crate::gate::tally::{Roll, Tally, ROLL};
use crate::interpreter::records::forget_requests;
use crate::os;
use crate::seatbelt::{enter, protect};
use crate::support::sync::MutexGuard;
use crate::system::generation;
use crate::thread::birth;
use crate::thread::seen::{self, Seen};
use crate::thread::slip::{self, Slips};
use crate::thread::thread::{self, Thread};
use crate::watch::file as watched;

/// The locks that are held across a fork.
struct Held {
    registry: MutexGuard<'static, Registry>,
    _lobby: MutexGuard<'static, ()>,
    roll: MutexGuard<'static, Vec<&'static Tally>>,
    slips: Slips,
    legacy: MutexGuard<'static, Vec<&'static Seen>>,
    _at_fini: MutexGuard<'static, Vec<AtFini>>,
    #[cfg(pep788_redirects)]
    _bound: bound::Locks,
    _switch: MutexGuard<'static, ()>,
}

/// Filled in between `before` and `in_parent` or `in_child`, by the forking thread.
struct Place(UnsafeCell<Option<Held>>);

// SAFETY: only a thread that has the locks reaches the place.
unsafe impl Sync for Place {}

static HELD: Place = Place(UnsafeCell::new(None));

/// Takes what `before` left, if this is the thread that forks.
fn take_held() -> Option<Held> {
    if !generation::forks_here() {
        return None;
    }
    // SAFETY: this thread has the locks since `before`.
    let held = unsafe { (*HELD.0.get()).take() };
    generation::set_forks_here(false);
    held
}

/// Registers the handlers for forks, before the library takes its first lock. Returns `false` if memory runs out.
pub(crate) fn watch() -> bool {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Two threads may do this at once, because handlers that find their work done do nothing. One thread does not
    // wait for the other: the child of a fork in between would wait for a thread that it does not have.
    // Relaxed: the C library has a lock for its list.
    if !WATCHED.load(Ordering::Relaxed) {
        // SAFETY: any thread may fork; what follows is made for that.
        let are_registered = unsafe { os::at_fork(before, in_parent, in_child) };
        WATCHED.store(are_registered, Ordering::Relaxed);
    }
    WATCHED.load(Ordering::Relaxed)
}

unsafe extern "C" fn before() {
    if generation::forks_here() {
        return;
    }
    // This lock is taken first, because a thread that has it waits for other threads.
    let switch = protect::hold_switch();
    #[cfg(pep788_redirects)]
    let bound = bound::hold_locks();
    birth::suspend(|| thread::any(|thread| thread.birth.is_under_way()));
    let registry = registry();
    let lobby = LOBBY.enter();
    let roll = ROLL.lock();
    let slips = slip::hold_slips();
    let legacy = seen::hold_threads();
    let at_fini = at_fini::hold();
    let held = Held {
        registry,
        _lobby: lobby,
        roll,
        slips,
        legacy,
        _at_fini: at_fini,
        #[cfg(pep788_redirects)]
        _bound: bound,
        _switch: switch,
    };
    // SAFETY: this thread has the locks, and the thread that had them before has emptied the place.
    unsafe { *HELD.0.get() = Some(held) };
    generation::set_forks_here(true);
}

unsafe extern "C" fn in_parent() {
    let Some(held) = take_held() else { return };
    drop(held);
    birth::resume();
}

unsafe extern "C" fn in_child() {
    // Only the forking thread lives on in the child. It holds all locks, so nothing is half done.
    let Some(mut held) = take_held() else { return };
    generation::begin_another();
    let own = Thread::known();
    Roll::forget_parent(&mut held.roll, own.map(|thread| &thread.tally));
    own.into_iter().for_each(Thread::forget_parent);
    for record in held.registry.everything() {
        record.forget_parent();
    }
    held.slips.forget_parent();
    enter::forget_parent();
    seen::forget_parent(&mut held.legacy, own.map(|thread| &thread.legacy.seen));
    drop(held);
    birth::resume_alone();
    forget_requests();
    watched::forget_parent();
}
