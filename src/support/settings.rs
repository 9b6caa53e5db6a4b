//! Reads the library's environment variables once, when the first of them is needed.

use alloc::format;
use alloc::string::String;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use crate::os::{self, say};
use crate::support::kept::Kept;

pub(crate) struct Settings {
    /// `PEP788_ENGINE=backport`: this library serves accepted calls on 3.15+ too.
    pub backport: bool,
    /// `PEP788_DRAIN_GRACE_MS`: how long views are honoured while finalization waits. `None` means as long as
    /// finalization waits, like native 3.15.
    pub drain_grace: Option<Duration>,
    /// `PEP788_WAIT_WARN_MS`: how long an exit waits before it says for which threads it waits. `None` means never.
    pub wait_warn: Option<Duration>,
    /// `PEP788_TRACE=1`: the library notes where each guard is taken.
    pub trace: bool,
    /// `PEP788_GILSTATE_WAIT_MS`: how long an exit waits for threads inside `PyGILState_Ensure`. `None` means as long
    /// as it takes.
    pub gilstate_wait: Option<Duration>,
    /// `PEP788_EXIT_TIMEOUT_MS`: how long an exit may take after its wait. `None` if the variable is not set.
    exit_timeout: Option<Duration>,
}

/// Returns whether `PEP788_GILSTATE` asks for the protection of `PyGILState_Ensure`. Returns `None` if the variable
/// says neither yes nor no; in a process that has a Python, the user is told so. This one is not in [`Settings`],
/// because it is asked when the library is loaded (`seatbelt`).
pub(crate) fn gilstate() -> Option<bool> {
    let text = variable(GILSTATE).unwrap_or_default().trim();
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match (is_one_of(&["protect", "1", "on"]), is_one_of(&["", "0", "off"])) {
        (false, false) => None,
        (on, _) => Some(on),
    }
}

pub(crate) fn complain_of_gilstate() {
    let text = variable(GILSTATE).unwrap_or_default();
    complain(GILSTATE, text, "protect, 1, on, 0 or off");
}

const GILSTATE: &CStr = c"PEP788_GILSTATE";
const WATCH: &CStr = c"PEP788_WATCH";
const DISTURB: &CStr = c"PEP788_DISTURB";
const ENGINE: &CStr = c"PEP788_ENGINE";
const DRAIN_GRACE: &CStr = c"PEP788_DRAIN_GRACE_MS";
const WAIT_WARN: &CStr = c"PEP788_WAIT_WARN_MS";
const TRACE: &CStr = c"PEP788_TRACE";
const GILSTATE_WAIT: &CStr = c"PEP788_GILSTATE_WAIT_MS";
const EXIT_TIMEOUT: &CStr = c"PEP788_EXIT_TIMEOUT_MS";
const NAMES: [&CStr; 9] =
    [DRAIN_GRACE, WAIT_WARN, TRACE, GILSTATE, GILSTATE_WAIT, EXIT_TIMEOUT, WATCH, DISTURB, ENGINE];

/// Returns the file in which this process is to note what its threads do (`watch`). It is not in [`Settings`],
/// because it is asked when the library is loaded.
pub(crate) fn watch() -> Option<&'static CStr> {
    os::variable(WATCH).filter(|path| !path.is_empty())
}

/// Returns the three numbers of `PEP788_DISTURB`, which says how a watched process is disturbed.
pub(crate) fn disturb() -> Option<[u64; 3]> {
    let mut numbers = variable(DISTURB)?.split(',').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Says once which variables look like settings but are not.
pub(crate) fn complain_of_names() {
    static SAID: AtomicBool = AtomicBool::new(false);
    // Relaxed: the flag says nothing about other data.
    if SAID.swap(true, Ordering::Relaxed) {
        return;
    }
    os::variables(|name| {
        if name.starts_with(b"PEP788_") && !NAMES.iter().any(|known| known.to_bytes() == name) {
            complain_of_name(name);
        }
    });
}

fn complain_of_name(name: &[u8]) {
    let name = String::from_utf8_lossy(name);
    let names = NAMES.map(|name| name.to_str().unwrap_or_default()).join(", ");
    say(format!("libpep788: {name} is not a setting; there are {names}\n").as_bytes());
}

pub(crate) fn get() -> &'static Settings {
    static SETTINGS: Kept<Settings> = Kept::new();
    SETTINGS.get().unwrap_or_else(|| {
        let (settings, is_first) = SETTINGS.keep(Settings::read(|_, _, _| {}));
        if is_first {
            // The library complains only now: if nobody reads stderr, that holds up this thread alone.
            Settings::read(complain);
            complain_of_names();
        }
        settings
    })
}

/// Is called with the name of a setting, its value, and what the setting takes instead.
type Wrong = fn(&CStr, &str, &str);

impl Settings {
    fn read(wrong: Wrong) -> Settings {
        Settings {
            backport: is_second(ENGINE, "native", "backport", wrong),
            drain_grace: match milliseconds(DRAIN_GRACE, wrong).unwrap_or(1000) {
                -1 => None,
                grace => Some(Duration::from_millis(grace.unsigned_abs())),
            },
            wait_warn: match milliseconds(WAIT_WARN, wrong).unwrap_or(10_000) {
                ..=0 => None,
                wait => Some(Duration::from_millis(wait.unsigned_abs())),
            },
            trace: is_second(TRACE, "0", "1", wrong),
            gilstate_wait: match milliseconds(GILSTATE_WAIT, wrong).unwrap_or(3000) {
                -1 => None,
                wait => Some(Duration::from_millis(wait.unsigned_abs())),
            },
            exit_timeout: milliseconds(EXIT_TIMEOUT, wrong)
                .map(|timeout| Duration::from_millis(timeout.max(0).unsigned_abs())),
        }
    }

    /// Returns how long an exit may take after its wait, before the process is ended. Returns `None` if it may take
    /// as long as it needs. If the variable is not set, only protected programs have a limit.
    pub(crate) fn exit_timeout(&self, protected: bool) -> Option<Duration> {
        let default = Duration::from_millis(if protected { 5000 } else { 0 });
        Some(self.exit_timeout.unwrap_or(default)).filter(|timeout| !timeout.is_zero())
    }

    /// Returns what is in force, as a user would set it: a line for each variable.
    pub(crate) fn lines(&self, protected: bool) -> String {
        let engine = if self.backport { "backport" } else { "native" };
        let grace = self.drain_grace.map_or(-1, |grace| grace.as_millis() as i64);
        let warn = self.wait_warn.map_or(0, |wait| wait.as_millis() as u64);
        let trace = u8::from(self.trace);
        let gilstate_wait = self.gilstate_wait.map_or(-1, |wait| wait.as_millis() as i64);
        let exit_timeout = self.exit_timeout(protected).map_or(0, |timeout| timeout.as_millis());
        format!(
            "PEP788_ENGINE={engine}\nPEP788_DRAIN_GRACE_MS={grace}\nPEP788_WAIT_WARN_MS={warn}\n\
             PEP788_TRACE={trace}\nPEP788_GILSTATE_WAIT_MS={gilstate_wait}\n\
             PEP788_EXIT_TIMEOUT_MS={exit_timeout}\n"
        )
    }
}

fn milliseconds(name: &CStr, wrong: Wrong) -> Option<i64> {
    let text = variable(name)?;
    let value = text.trim().parse().ok().filter(|value| *value >= -1);
    if value.is_none() {
        wrong(name, text, "a number of milliseconds, or -1");
    }
    value
}

/// Returns whether the second of two values is set. The first one is the default.
fn is_second(name: &CStr, first: &str, second: &str, wrong: Wrong) -> bool {
    let Some(text) = variable(name) else { return false };
    if text != first && text != second {
        wrong(name, text, &format!("{first} or {second}"));
    }
    text == second
}

/// Returns the value of a variable. Does not use `std::env`, which copies, because an exit may have no memory.
fn variable(name: &CStr) -> Option<&'static str> {
    // No setting takes a value that is not UTF-8.
    Some(os::variable(name)?.to_str().unwrap_or("\u{fffd}")).filter(|text| !text.is_empty())
}

/// Says that a setting is ignored. A setting that cannot be understood is not worth ending the process.
fn complain(name: &CStr, text: &str, wanted: &str) {
    let name = name.to_str().unwrap_or_default();
    say(format!("libpep788: {name}={text:?} is ignored: it takes {wanted}\n").as_bytes());
}
