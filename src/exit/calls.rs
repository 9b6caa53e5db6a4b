//! Says how long an exit waits for calls inside `PyGILState_Ensure`, and which threads it lets in meanwhile.

use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use crate::gate::record::Record;
use crate::support::clock::Instant;
use crate::support::memory::Text;
use crate::support::seconds::Seconds;
use crate::support::settings;
use crate::thread::seen;

/// Whether the library serves `PyGILState_Ensure`. `seatbelt` switches this.
static PROTECTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn are_protected() -> bool {
    // Relaxed: nothing is published with it. A thread that reads the old value acts as a moment before.
    PROTECTED.load(Ordering::Relaxed)
}

pub(crate) fn set_protected(protected: bool) {
    PROTECTED.store(protected, Ordering::Relaxed);
}

/// Threads that come to the door stay outside at first, so that calls in flight come to an end however often others
/// ask. If these calls do not end, they may need a thread that is outside. So the exit lets the threads at the door
/// in for a moment, then keeps threads outside again, and so on.
pub(crate) const CLOSED: Duration = Duration::from_millis(50);
const OPEN: Duration = Duration::from_millis(10);

/// How many of the threads that an exit leaves behind are listed.
const LISTED: usize = 20;

/// One exit's wait for calls that began with `PyGILState_Ensure`.
pub(crate) struct Calls {
    begun: Instant,
    /// `None` means that the exit waits as long as it takes.
    over: Option<Instant>,
    reported: bool,
}

impl Calls {
    pub(crate) fn new(begun: Instant) -> Calls {
        let over = settings::get().gilstate_wait.map(|wait| begun + wait);
        Calls { begun, over, reported: false }
    }

    /// Returns whether the exit still waits for calls.
    pub(crate) fn goes_on(&self) -> bool {
        self.over.is_none_or(|over| Instant::now() < over)
    }

    /// Returns when the exit stops waiting for calls. Returns `None` if it waits as long as it takes, or if there are
    /// no such calls.
    pub(crate) fn over(&self) -> Option<Instant> {
        self.over.filter(|_| are_protected())
    }

    /// Returns whether threads with nothing attached are let in. While guards are out the exit waits in any case, and
    /// what the guards protect may need such a thread.
    pub(crate) fn lets_in(&self, guards_are_out: bool, grace_over: Option<Instant>) -> bool {
        let now = Instant::now();
        let is_open = self.in_period(now) >= CLOSED;
        guards_are_out || is_open && grace_over.is_none_or(|over| now < over)
    }

    /// Returns the time since the current period began. In each period the door is closed first, and open after that.
    fn in_period(&self, now: Instant) -> Duration {
        let period = (CLOSED + OPEN).as_micros() as u64;
        let waited = now.saturating_duration_since(self.begun);
        Duration::from_micros(waited.as_micros() as u64 % period)
    }

    /// Returns when the answer of [`Calls::lets_in`] or [`Calls::goes_on`] changes next, or `pause` if that comes
    /// first.
    pub(crate) fn next_change(&self, pause: Instant) -> Instant {
        let now = Instant::now();
        let in_period = self.in_period(now);
        let end = if in_period < CLOSED { CLOSED } else { CLOSED + OPEN };
        let changes = [Some(now + (end - in_period)), self.over];
        changes.into_iter().flatten().filter(|change| *change > now).fold(pause, Instant::min)
    }

    /// Returns a report of the threads that the exit leaves behind, once, when the exit stops waiting for them.
    pub(crate) fn report(
        &mut self,
        record: &'static Record,
        covers: impl Fn(&'static Record) -> bool,
    ) -> Option<Text> {
        if self.reported || self.goes_on() {
            return None;
        }
        self.reported = true;
        let threads = seen::inside(covers);
        if threads.is_empty() {
            return None;
        }
        let mut text = Text::default();
        let _ = writeln!(
            text,
            "libpep788: the end of {} has waited {} for threads inside PyGILState_Ensure, and goes on \
             without them (PEP788_GILSTATE_WAIT_MS):",
            record.name(),
            Seconds(self.begun.elapsed())
        );
        for (name, id) in threads.iter().take(LISTED) {
            let _ = writeln!(text, "libpep788:   thread \"{name}\" (id {id})");
        }
        if threads.len() > LISTED {
            let _ = writeln!(text, "libpep788:   and {} more", threads.len() - LISTED);
        }
        Some(text)
    }
}
