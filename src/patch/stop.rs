//! Makes all other threads of the process stand still, away from a few instructions.
//!
//! Each thread is sent a signal. The handler notes where the thread was, and waits. A thread that was inside the
//! instructions goes on, and is sent another signal. A thread that blocks the signal is sent one that glibc lets no
//! thread block (`reserved.rs`). A thread that blocks both, by the bare system call, cannot be stopped. Such a
//! thread must be in a system call, which is outside of any code, as the kernel tells (`/proc`). The library looks
//! at it once more when the change is made. If the thread has left the call meanwhile, the change is undone, and
//! made again later.
//!
//! Two cases are not covered. In the first, a thread that cannot be stopped returns from its call, comes to these
//! very instructions and runs them, all while they change. In the second, another signal interrupted such a thread
//! inside the instructions, and the thread is in the handler of that signal, in a system call.
//!
//! Threads that stand still may have any lock: of the allocator, of the loader. So nothing that happens meanwhile
//! takes a lock or allocates. It makes system calls, and uses memory that was there before.

use core::ffi::c_int;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use super::reserved::{self, Borrowed};
use super::signal::{
    handle, note, send, take_signal, NoSignals, BANNED, INSIDE, MOST, OUTSIDE, PLACES, ROUND,
};
use crate::os::tasks::{field, is_the_kernels, read, this_thread, Tasks, Unread};
use crate::os::{last_error, OsError};
use crate::support::clock::Instant;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// This many threads are more than the handler has room for.
    TooMany,
    /// `/proc` is not there, or all signals are in use.
    NoMeans,
    /// What the kernel tells of threads cannot be read, with this error.
    Untold(i32),
    /// Signals cannot be sent, with this error.
    NoSignals(i32),
    /// This thread did not stand still in time.
    Restless(libc::pid_t),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::TooMany => write!(f, "there are more than {MOST} threads"),
            Why::NoMeans => f.write_str(
                "there may be other threads, and without /proc or a free real-time signal they \
                 cannot be stopped for it. Mount /proc, or have it switched on before there are threads",
            ),
            Why::Untold(number) => write!(
                f,
                "there may be other threads, and what /proc tells of them cannot be read ({}). Have it switched on \
                 before there are threads, or with file descriptors to spare",
                OsError(*number)
            ),
            Why::NoSignals(number) => write!(
                f,
                "it sends its threads signals to stop them for it, and the system refuses that ({}; does a seccomp \
                 filter forbid rt_tgsigqueueinfo?). Switched on before there are other threads, it needs none",
                OsError(*number)
            ),
            Why::Restless(id) => {
                write!(f, "thread {id} could not be stopped for it: it blocks signals and runs")
            }
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Makes a change while all other threads stand still, none of them `inside`. The change may be undone and made
/// again before this returns. A change that fails is neither undone nor made again.
pub(super) fn with_all_stopped<E>(
    inside: &[Range<usize>],
    mut change: impl FnMut() -> Result<(), E>,
    mut undo: impl FnMut(),
) -> Result<Result<(), E>, Why> {
    if is_alone() {
        return Ok(change());
    }
    // A signal handler of this thread would run while all other threads stand still with their locks.
    let _no_signals = NoSignals::new();
    assert!(inside.len() * 2 <= BANNED.len());
    let bounds = inside.iter().flat_map(|range| [range.start, range.end]);
    for (place, bound) in BANNED.iter().zip(bounds.chain(core::iter::repeat(0))) {
        // Relaxed: the round is published after this store.
        place.store(bound, Ordering::Relaxed);
    }
    let signal = take_signal(handle).ok_or(Why::NoMeans)?;
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let _let_go = LetGo;
    // This is given back while the threads stand still. What glibc sent meanwhile waits for them, and goes to glibc.
    let reserved = Borrowed::take();
    let mut others = Others {
        signals: [Some(signal), reserved.is_some().then_some(reserved::SIGNAL)],
        round: NEXT.fetch_add(1, Ordering::Relaxed),
        deadline: Instant::now() + PATIENCE,
        sent: Ids::none(),
        by: [0; MOST],
        blocking: Ids::none(),
    };
    // Release: pairs with the load in `handle`. The banned ranges come before the round.
    ROUND.store(others.round, Ordering::Release);
    loop {
        others.stop()?;
        let changed = change();
        sync_code();
        match others.any_has_left_its_call() {
            Some(id) if changed.is_ok() => {
                undo();
                sync_code();
                if Instant::now() > others.deadline {
                    return Err(Why::Restless(id));
                }
            }
            _ => return Ok(changed),
        }
    }
}

fn is_alone() -> bool {
    let Ok(mut tasks) = Tasks::open() else { return is_alone_by_libc() };
    let mut is_here = false;
    for id in &mut tasks {
        if id != this_thread() {
            return false;
        }
        is_here = true;
    }
    is_here && tasks.error.is_none()
}

/// Returns whether no other thread was ever started, without `/proc`. glibc knows that since 2.32.
fn is_alone_by_libc() -> bool {
    // SAFETY: `dlsym` takes its constant and a C string. The variable is a `char` that glibc alone writes, and that
    // any thread may read.
    unsafe {
        let known = libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr());
        known.cast::<core::ffi::c_char>().as_ref().is_some_and(|is_single| *is_single != 0)
    }
}

/// Ends the round when dropped.
struct LetGo;

impl Drop for LetGo {
    fn drop(&mut self) {
        // Release: pairs with the loads in `handle`. A thread that goes on sees what was done.
        ROUND.store(0, Ordering::Release);
        // SAFETY: the call wakes the threads that sleep on a word of the library.
        unsafe { libc::syscall(libc::SYS_futex, &ROUND, libc::FUTEX_WAKE, c_int::MAX) };
    }
}

/// Threads, by their numbers.
struct Ids {
    ids: [libc::pid_t; MOST],
    count: usize,
}

impl Ids {
    fn none() -> Ids {
        Ids { ids: [0; MOST], count: 0 }
    }

    fn all(&self) -> &[libc::pid_t] {
        &self.ids[..self.count]
    }

    fn push(&mut self, id: libc::pid_t) -> Result<(), Why> {
        *self.ids.get_mut(self.count).ok_or(Why::TooMany)? = id;
        self.count += 1;
        Ok(())
    }
}

/// The other threads of the process, in a round.
struct Others {
    /// The library's own signal, and the borrowed one.
    signals: Signals,
    round: u32,
    deadline: Instant,
    /// The threads that were sent a signal. Each has the place of the same index.
    sent: Ids,
    /// The signal that each of these threads was sent.
    by: [c_int; MOST],
    /// The threads that block signals, and were in a system call.
    blocking: Ids,
}

impl Others {
    /// Stops the other threads. Returns when all of them stand still outside.
    fn stop(&mut self) -> Result<(), Why> {
        // A thread may have been made after the look for threads, by a thread that stood still only then.
        let mut was_quiet = false;
        loop {
            self.blocking = Ids::none();
            let before = self.sent.count;
            let mut restless = self.send_to_new()?;
            for place in 0..self.sent.count {
                if !self.is_settled(place)? {
                    restless = Some(self.sent.ids[place]);
                }
            }
            // New threads may come as long as one thread runs.
            let any_new = self.sent.count > before;
            match restless {
                None if !any_new && was_quiet => return Ok(()),
                None if !any_new => {
                    was_quiet = true;
                    continue;
                }
                Some(id) if Instant::now() > self.deadline => return Err(Why::Restless(id)),
                // SAFETY: `usleep` has no preconditions.
                _ => unsafe { libc::usleep(20) },
            };
            was_quiet = false;
        }
    }

    /// Sends a signal to each thread that has not been sent one. Returns a thread that runs and takes no signal, if
    /// there is one.
    fn send_to_new(&mut self) -> Result<Option<libc::pid_t>, Why> {
        let mut restless = None;
        let mut tasks = Tasks::open().map_err(|error| match error {
            libc::ENOENT => Why::NoMeans,
            error => Why::Untold(error),
        })?;
        for id in &mut tasks {
            if id == this_thread() || self.sent.all().contains(&id) {
                continue;
            }
            match look_at(id, self.signals)? {
                Seen::Gone => {}
                Seen::Blocks { in_system_call: true } => self.blocking.push(id)?,
                Seen::Blocks { in_system_call: false } => restless = Some(id),
                Seen::Takes(signal) => {
                    let place = self.sent.count;
                    self.sent.push(id)?;
                    if send(id, signal, self.round, place) {
                        self.by[place] = signal;
                    } else {
                        let error = last_error();
                        self.sent.count = place;
                        if matches!(error, libc::EPERM | libc::EACCES | libc::ENOSYS) {
                            return Err(Why::NoSignals(error));
                        }
                        restless = Some(id);
                    }
                }
            }
        }
        tasks.error.map_or(Ok(restless), |error| Err(Why::Untold(error)))
    }

    /// Returns whether the thread that has this place stands still outside, is gone, or blocks signals in a system
    /// call. If not, the thread is sent another signal where that helps.
    fn is_settled(&mut self, place: usize) -> Result<bool, Why> {
        let id = self.sent.ids[place];
        // Acquire, here and below: pairs with the store in the handler.
        let noted = PLACES[place].load(Ordering::Acquire);
        if noted == note(self.round, OUTSIDE) {
            return Ok(true);
        }
        let was_inside = noted == note(self.round, INSIDE);
        match look_at(id, self.signals)? {
            // The thread may have ended before the signal came.
            Seen::Gone => return Ok(true),
            // The thread may have begun to block the signal before the signal came. The handler makes system calls
            // too, but only after its note.
            Seen::Blocks { in_system_call: true }
                if !was_inside && PLACES[place].load(Ordering::Acquire) == noted =>
            {
                self.blocking.push(id)?;
                return Ok(true);
            }
            // This thread blocks the signal too, but takes the other one. It is not in the handler, which blocks
            // both.
            Seen::Takes(signal)
                if !was_inside
                    && signal != self.by[place]
                    && send(id, signal, self.round, place) =>
            {
                self.by[place] = signal;
            }
            _ => {}
        }
        if was_inside {
            // Relaxed: sending the signal orders this store.
            PLACES[place].store(0, Ordering::Relaxed);
            if !send(id, self.by[place], self.round, place) {
                PLACES[place].store(noted, Ordering::Relaxed);
            }
        }
        Ok(false)
    }

    /// Returns one of the threads that could not be stopped, if it is not known to be in a system call any more.
    fn any_has_left_its_call(&self) -> Option<libc::pid_t> {
        let is_in_it = |id| match look_at(id, self.signals) {
            Ok(Seen::Gone | Seen::Blocks { in_system_call: true }) => true,
            Ok(Seen::Takes(_) | Seen::Blocks { in_system_call: false }) | Err(_) => false,
        };
        self.blocking.all().iter().copied().find(|id| !is_in_it(*id))
    }
}

/// Makes sure that processors that were in a system call run no code that they fetched before.
fn sync_code() {
    const SYNC_CORE: c_int = 1 << 5;
    const REGISTER_SYNC_CORE: c_int = 1 << 6;
    // SAFETY: the calls take numbers. If the kernel does not know them, its return to the thread has to be enough.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER_SYNC_CORE, 0, 0);
        libc::syscall(libc::SYS_membarrier, SYNC_CORE, 0, 0);
    }
}

type Signals = [Option<c_int>; 2];

enum Seen {
    /// The thread takes this signal.
    Takes(c_int),
    Blocks {
        in_system_call: bool,
    },
    Gone,
}

fn look_at(id: libc::pid_t, signals: Signals) -> Result<Seen, Why> {
    let mut buffer = [0; 4096];
    let status = match read(id, "status", &mut buffer) {
        Ok(status) => status,
        Err(Unread::Gone) => return Ok(Seen::Gone),
        Err(Unread::Error(error)) => return Err(Why::Untold(error)),
    };
    if field(status, b"State:").is_some_and(|s| s.starts_with(b"Z") || s.starts_with(b"X")) {
        return Ok(Seen::Gone);
    }
    let mut buffer = [0; 256];
    // The file says `running`, or the number of the call. It says nothing where tracing is forbidden: then the
    // thread may run.
    let call = read(id, "syscall", &mut buffer).ok();
    let number = call.and_then(|call| call.split(|byte| *byte == b' ').next()).and_then(number_of);
    if number == Some(libc::SYS_rt_sigtimedwait) {
        // In this call the thread takes signals that it blocks, without a handler.
        return Ok(Seen::Blocks { in_system_call: true });
    }
    let blocked = field(status, b"SigBlk:")
        .and_then(|digits| core::str::from_utf8(digits).ok())
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let is_open = |signal: &c_int| blocked.is_some_and(|it| it >> (*signal - 1) & 1 == 0);
    if let Some(signal) = signals.into_iter().flatten().find(is_open) {
        return Ok(Seen::Takes(signal));
    }
    // A thread of the kernel's own stays in the kernel for good, so it does not disturb a change.
    let in_system_call = number.is_some() || is_the_kernels(id);
    Ok(Seen::Blocks { in_system_call })
}

fn number_of(digits: &[u8]) -> Option<libc::c_long> {
    let number = core::str::from_utf8(digits).ok()?.trim().parse().ok();
    // -1 means that the thread waits in the kernel, but for a page of memory.
    number.filter(|number| *number >= 0)
}
