//! Notes who takes a guard and where, if tracing is on.

use crate::gate::gate::Claim;
use crate::gate::record::Record;
use crate::gate::registry::LOBBY;
use crate::os::this_id;
use crate::python;
use crate::support::clock::Instant;
use crate::support::short_text::ShortText;
use crate::system::names::this_name;
use crate::system::stack;
use crate::thread::attached::attached;
use crate::thread::hold::Hold;
use crate::thread::slip::{is_off, Notes, PythonPlace, Slip, What, DEPTH};

/// Returns a slip for a guard that was taken a moment ago, or `None` if tracing is off or there is no memory.
#[inline]
pub(crate) fn note(record: &'static Record, what: What) -> Option<&'static Slip> {
    if is_off() {
        return None;
    }
    note_closely(record, what)
}

#[cold]
fn note_closely(record: &'static Record, what: What) -> Option<&'static Slip> {
    // This comes before any lock is taken, because it calls Python and the unwinder.
    let notes = take(what);
    Slip::fill_in(record, notes)
}

/// Makes a hold of a guard that was taken a moment ago on `record`, in this process.
#[inline]
pub(crate) fn hold_of(record: &'static Record) -> Hold {
    Hold::of(record, note(record, What::Hold))
}

/// Takes one more hold, for a caller that already keeps the interpreter from finalizing.
pub(crate) fn another_hold(record: &'static Record) -> Option<Hold> {
    record.gate.enter(Claim::Holder, &LOBBY).then(|| hold_of(record))
}

/// Takes the notes of the calling thread, now.
fn take(what: What) -> Notes {
    let mut notes = Notes {
        what,
        when: Instant::now(),
        thread: this_name(),
        thread_id: this_id(),
        python_thread: None,
        python: None,
        stack: [0; DEPTH],
        depth: 0,
    };
    notes.depth = stack::walk(&mut notes.stack);
    if let Some(py) = python::get().filter(|py| !attached(py).is_null()) {
        // SAFETY: the condition above has found that this thread is attached.
        unsafe {
            let _exception = python::KeepException::new(py);
            let name = python::threading::name(py);
            notes.python_thread = name.and_then(|name| Some(ShortText::of(name.utf8()?)));
            notes.python = python::innermost_frame(py).and_then(|frame| {
                Some(PythonPlace {
                    function: ShortText::of(frame.function.utf8()?),
                    file: ShortText::of(frame.file.utf8()?),
                    line: frame.line,
                })
            });
        }
    }
    notes
}
