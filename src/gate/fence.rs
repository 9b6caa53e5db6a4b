//! Two memory fences that work together: a light one in every call, a heavy one in an exit or a fork.
//!
//! Each fence orders the earlier stores of its thread before its later loads. If the system can make all threads of
//! the process pass a barrier (`membarrier` on Linux), the heavy fence does that, and the light one only keeps the
//! compiler from reordering. On other systems both are processor fences.

#[cfg(loom)]
mod imp {
    use loom::sync::atomic::{fence, AtomicUsize, Ordering};

    loom::lazy_static! {
        static ref SWITCH: AtomicUsize = AtomicUsize::new(0);
    }

    pub(crate) fn light() {
        // `loom` switches threads at loads and stores, not at fences.
        SWITCH.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn meets_heavy() {
        // `loom` treats SeqCst operations as Acquire and Release ones, so it needs the fence.
        light();
    }
}

#[cfg(not(loom))]
mod imp {
    use core::sync::atomic::{compiler_fence, fence, AtomicBool, Ordering};
    use core::time::Duration;

    use crate::os::{at_load, barrier, register_barriers, sleep};

    /// Whether the heavy fence reaches all threads. [`prepare`] turns this on once, and nothing turns it off. A
    /// light fence that is still a processor fence then does no harm.
    static REACHES_ALL: AtomicBool = AtomicBool::new(false);

    /// Makes the light fence, in a call.
    #[inline]
    pub(crate) fn light() {
        // Relaxed: this was set before the thread first used the library. If the thread sees it late, it only loses
        // time.
        if REACHES_ALL.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Orders a SeqCst read-modify-write operation before a later SeqCst load of the same thread, for a thread that makes
    /// [`heavy`]. No fence is needed: both operations, and the fence in `heavy`, are in one order. If the other thread does
    /// not see the operation after its fence, the operation comes after the fence in that order. So does the load, which
    /// then sees what the other thread wrote before the fence.
    #[inline(always)]
    pub(crate) fn meets_heavy() {}

    /// Makes the heavy fence, in an exit or a fork.
    #[cold]
    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
        if REACHES_ALL.load(Ordering::Relaxed) && !barrier() {
            // A sandbox has forbidden the barrier since. The other processors only have to drain their store
            // buffers, which takes them nanoseconds. This sleep is ten million of them.
            sleep(Duration::from_millis(10));
            fence(Ordering::SeqCst);
        }
    }

    /// Asks the system for barriers, when the library is loaded. That takes microseconds in a process with one
    /// thread, and about 20 ms in one with more.
    pub(crate) extern "C" fn prepare() {
        if register_barriers() && barrier() {
            REACHES_ALL.store(true, Ordering::Relaxed);
        }
    }

    at_load!(prepare);
}

pub(crate) use imp::{heavy, light, meets_heavy};
