//! Two fences that meet: a light one on the way of every call, a heavy one on the way of an exit or a fork.
//!
//! Each orders its thread's earlier stores before its later loads. Where the system can make all
//! threads of the process pass a barrier (`membarrier` on Linux), the heavy side does that, and the
//! light side only keeps the compiler from reordering; elsewhere both are processor fences.

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
}

#[cfg(not(loom))]
mod imp {
    use std::sync::atomic::{compiler_fence, fence, AtomicBool, Ordering};

    /// Whether the heavy fence reaches all threads. Turned on once, by [`prepare`], while a light
    /// fence that is a processor fence does no harm; never turned off.
    static REACHES_ALL: AtomicBool = AtomicBool::new(false);

    /// On the way of calls.
    #[inline]
    pub(crate) fn light() {
        // Relaxed: set before this thread got to know the library, or too late, which costs time.
        if REACHES_ALL.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// On the way of an exit, or a fork.
    #[cold]
    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
        if REACHES_ALL.load(Ordering::Relaxed) && !barrier() {
            // Forbidden since, by a sandbox. All that is asked of other processors is to drain
            // their store buffers, which takes them nanoseconds; this is ten million.
            std::thread::sleep(std::time::Duration::from_millis(10));
            fence(Ordering::SeqCst);
        }
    }

    /// Asks the system for barriers, when the library is loaded: that takes microseconds in a
    /// process with one thread, and some 20 ms in one with more.
    pub(crate) extern "C" fn prepare() {
        if register() && barrier() {
            REACHES_ALL.store(true, Ordering::Relaxed);
        }
    }

    #[cfg(target_os = "linux")]
    #[used]
    #[link_section = ".init_array"]
    static AT_LOAD: extern "C" fn() = prepare;

    #[cfg(target_os = "linux")]
    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: takes numbers, touches no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    #[cfg(target_os = "linux")]
    fn register() -> bool {
        const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
        membarrier(REGISTER_PRIVATE_EXPEDITED)
    }

    #[cfg(target_os = "linux")]
    fn barrier() -> bool {
        const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
        // A forked child may have to register again.
        membarrier(PRIVATE_EXPEDITED) || register() && membarrier(PRIVATE_EXPEDITED)
    }

    #[cfg(not(target_os = "linux"))]
    fn register() -> bool {
        false
    }

    #[cfg(not(target_os = "linux"))]
    fn barrier() -> bool {
        false
    }
}

pub(crate) use imp::{heavy, light};
