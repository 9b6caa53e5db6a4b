//! Writes the notes of guards into reports: who took each guard, and where.

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::gate::record::Record;
use crate::support::memory::Text;
use crate::support::seconds::Seconds;
use crate::system::symbols::{Symbol, Symbols};
use crate::thread::slip::{self, is_off, Notes, PythonPlace, Slip, What, DEPTH};

/// Returns where the guard of a slip was taken, as lines that follow a message.
pub(crate) fn tell(slip: &Slip) -> Text {
    let mut text = Text::default();
    if let Some(notes) = slip.notes() {
        let symbols = Symbols::look_up(notes.stack().iter().copied());
        let _ = writeln!(text, "\n  it was {}", notes.by_whom());
        notes.write_place(&mut text, &symbols, "    ");
    }
    text
}

/// How many guards are listed for each interpreter.
const LISTED: usize = 50;

/// Adds to a report what is known of the guards of `record`, in lines that begin with `before`. `out` is the number
/// of guards that are out. Returns `false` if tracing is off.
pub(crate) fn list(record: &'static Record, out: usize, text: &mut Text, before: &str) -> bool {
    if is_off() {
        return false;
    }
    let mut notes = of_record(record);
    let noted = notes.len();
    notes.truncate(LISTED);
    let symbols = Symbols::look_up(notes.iter().flat_map(|notes| notes.stack()).copied());
    let places = places(&notes, &symbols, before);
    // Guards that were taken in the same place are listed together.
    for (index, (place, _)) in places.iter().enumerate() {
        let alike = || places.iter().filter(|(other, _)| other == place);
        if places[..index].iter().any(|(before, _)| before == place) {
            continue;
        }
        for (_, notes) in alike() {
            let _ = writeln!(text, "{before}- {}, {}", notes.name(), notes.by_whom());
        }
        if alike().count() > 1 {
            let _ = writeln!(text, "{before}  {} of them, from", alike().count());
        }
        let _ = text.write_str(place.as_str());
    }
    if noted > LISTED {
        let _ = writeln!(text, "{before}and {} more", noted - LISTED);
    }
    if out > noted {
        let _ = writeln!(text, "{before}and {} of which nothing was noted", out - noted);
    }
    true
}

/// Returns what the report says of the place where each guard was taken.
fn places<'a>(notes: &'a [Notes], symbols: &Symbols, before: &str) -> Vec<(Text, &'a Notes)> {
    let mut indent = Text::default();
    let _ = write!(indent, "{before}    ");
    let mut places = Vec::new();
    if places.try_reserve_exact(notes.len()).is_ok() {
        places.extend(notes.iter().map(|notes| {
            let mut place = Text::default();
            notes.write_place(&mut place, symbols, indent.as_str());
            (place, notes)
        }));
    }
    places
}

/// Returns the notes of the record's guards that are out, the oldest first.
fn of_record(record: &'static Record) -> Vec<Notes> {
    let slips = slip::of_record(record);
    let mut notes = Vec::new();
    if notes.try_reserve_exact(slips.len()).is_ok() {
        notes.extend(slips.into_iter().filter_map(Slip::notes));
    }
    notes.sort_unstable_by_key(|notes: &Notes| notes.when);
    notes
}

impl Notes {
    fn stack(&self) -> &[usize] {
        &self.stack[..self.depth]
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::Guard => "PyInterpreterGuard",
            What::StrongRef => "PyInterpreterRef",
            What::Hold => "hold of an Ensure or of PyThreadState_SetDaemon(0)",
        }
    }

    fn by_whom(&self) -> impl fmt::Display + '_ {
        struct ByWhom<'a>(&'a Notes);
        impl fmt::Display for ByWhom<'_> {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Notes { when, thread, thread_id, python_thread, .. } = self.0;
                let ago = Seconds(when.elapsed());
                write!(to, "taken {ago} ago by thread \"{thread}\" (id {thread_id}")?;
                if let Some(name) = python_thread {
                    write!(to, ", Python's \"{name}\"")?;
                }
                to.write_str(")")
            }
        }
        ByWhom(self)
    }

    /// Writes the Python code in which the guard was taken, and the native stack, innermost first. Each function
    /// takes one line.
    fn write_place(&self, to: &mut Text, symbols: &Symbols, before: &str) {
        if let Some(PythonPlace { function, file, line }) = &self.python {
            let _ = writeln!(to, "{before}in Python: {function}, {file}:{line}");
        }
        let frames = || self.stack().iter().filter_map(|at| symbols.get(*at));
        for symbol in frames().skip(own_frames(frames())) {
            let library = symbol.library.as_str();
            let _ = match &symbol.function {
                Some(function) => writeln!(to, "{before}{} ({library})", function.as_str()),
                None => writeln!(to, "{before}? ({library}+{:#x})", symbol.offset()),
            };
        }
        if self.depth == DEPTH {
            let _ = writeln!(to, "{before}...");
        }
    }
}

/// Returns how many of the innermost frames are this library's, without the library's function that was called.
fn own_frames<'a>(frames: impl Iterator<Item = &'a Symbol> + Clone) -> usize {
    let ours = frames.clone().take_while(|frame| frame.is_ours).count();
    // If the library is linked into the program, only the names of functions tell the two apart.
    let is_api = |frame: &Symbol| {
        let names = ["PyInterpreter", "PyThreadState_", "Pep788_"];
        let function = frame.function.as_ref();
        function.is_some_and(|f| names.iter().any(|name| f.as_str().starts_with(name)))
    };
    match frames.clone().take(ours).position(is_api) {
        Some(called) => called,
        None if ours < frames.count() => ours,
        None => 0,
    }
}
