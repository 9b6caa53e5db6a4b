//! Tells the user what an exit waits for, and follows Ctrl-C meanwhile.

use alloc::vec::Vec;
use core::fmt::Write as _;

use super::calls::are_protected;
use crate::gate::record::Record;
use crate::os::{end_by_interrupt, say};
use crate::python::Api;
use crate::support::clock::Instant;
use crate::support::memory::Text;
use crate::support::seconds::Seconds;
use crate::support::settings;
use crate::trace;

/// What an exit waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Guards, and calls inside `PyGILState_Ensure`.
    Guards,
    /// Threads that the program asked `threading` to start while the exit waited.
    Threads,
}

/// What the user was told about one wait.
pub(crate) struct Report {
    record: &'static Record,
    begun: Instant,
    warned: bool,
    interrupted: bool,
}

impl Report {
    pub(crate) fn new(record: &'static Record, begun: Instant) -> Report {
        Report { record, begun, warned: false, interrupted: false }
    }

    /// Reports if it is time for that, and runs signal handlers.
    ///
    /// # Safety
    /// The calling thread is attached.
    pub(crate) unsafe fn look_around(
        &mut self,
        py: &'static Api,
        awaited: Awaited,
        guards_out: impl Fn() -> Vec<(&'static Record, usize)>,
    ) {
        let late = settings::get().wait_warn.is_some_and(|after| self.begun.elapsed() >= after);
        if late && !self.warned {
            self.warned = true;
            // SAFETY: attached, by this function's contract.
            unsafe { self.explain(py, awaited, &guards_out, "") };
        }
        // SAFETY: attached, by this function's contract. This runs the program's signal handlers, if this is the main
        // thread.
        unsafe {
            if py.PyErr_CheckSignals() != 0 {
                self.interrupted_or_failed(py, awaited, guards_out);
            }
        }
    }

    /// Deals with an exception: Ctrl-C, or a failure that must not end the wait.
    ///
    /// # Safety
    /// The calling thread is attached, with an exception set.
    unsafe fn interrupted_or_failed(
        &mut self,
        py: &'static Api,
        awaited: Awaited,
        guards_out: impl Fn() -> Vec<(&'static Record, usize)>,
    ) {
        // SAFETY: attached, by this function's contract.
        unsafe {
            if py.PyErr_ExceptionMatches(py.PyExc_KeyboardInterrupt()) == 0 {
                py.PyErr_WriteUnraisable(core::ptr::null_mut());
                return;
            }
            py.PyErr_Clear();
        }
        if self.interrupted {
            end_by_interrupt();
        }
        self.interrupted = true;
        const AGAIN: &str = "libpep788: press Ctrl-C again to end the process without waiting\n";
        // SAFETY: attached, by this function's contract.
        unsafe { self.explain(py, awaited, guards_out, AGAIN) };
    }

    /// Writes the explanation to stderr. The thread is detached meanwhile, because stderr may be slow, and because a
    /// thread that waits to attach may have the loader's lock. Without that lock no name is found.
    ///
    /// # Safety
    /// The calling thread is attached.
    unsafe fn explain(
        &self,
        py: &'static Api,
        awaited: Awaited,
        guards_out: impl Fn() -> Vec<(&'static Record, usize)>,
        advice: &str,
    ) {
        // SAFETY: attached, by this function's contract, and attached again afterwards.
        unsafe {
            let state = py.PyEval_SaveThread();
            let mut text = self.explanation(awaited, &guards_out());
            let _ = text.write_str(advice);
            say(text.as_str().as_bytes());
            py.PyEval_RestoreThread(state);
        }
    }

    fn explanation(&self, awaited: Awaited, guards_out: &[(&'static Record, usize)]) -> Text {
        let mut text = Text::default();
        let mut is_traced = false;
        let waited = Seconds(self.begun.elapsed());
        let _ =
            write!(text, "libpep788: the end of {} has waited {waited} for ", self.record.name());
        if guards_out.is_empty() {
            let _ = text.write_str(match awaited {
                Awaited::Threads => "Python threads that were started meanwhile\n",
                // The last guard was closed after the exit looked.
                Awaited::Guards if !are_protected() => {
                    "PEP 788 guards that threads take and close again\n"
                }
                Awaited::Guards => "threads inside PyGILState_Ensure (PEP788_GILSTATE_WAIT_MS)\n",
            });
            return text;
        }
        let _ = text.write_str("PEP 788 guards:\n");
        for (record, guards) in guards_out {
            let _ = writeln!(text, "libpep788:   {}: {guards} not closed", record.name());
            is_traced |= trace::list::list(record, *guards, &mut text, "libpep788:     ");
        }
        let _ = text.write_str(
            "libpep788: each is ended by PyInterpreterGuard_Close, PyInterpreterRef_Close, or the \
             PyThreadState_Release of an Ensure that holds the interpreter\n",
        );
        if !is_traced {
            let _ = text.write_str("libpep788: PEP788_TRACE=1 lists where each was taken\n");
        }
        text
    }
}
