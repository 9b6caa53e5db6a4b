//! The environment variables, read once, when the first of them is needed.

use std::time::Duration;

use once_cell::sync::Lazy;

use crate::say::say;

pub(crate) struct Settings {
    /// `PEP788_ENGINE=backport`: our implementation serves accepted calls on 3.15+ too.
    pub backport: bool,
    /// `PEP788_DRAIN_GRACE_MS`: how long views are honoured while finalization waits.
    /// `None`: as long as it waits, like native 3.15.
    pub drain_grace: Option<Duration>,
    /// `PEP788_WAIT_WARN_MS`: how long an exit waits before it says for whom. `None`: never.
    pub wait_warn: Option<Duration>,
    /// `PEP788_TRACE=1`: it is noted where each guard is taken.
    pub trace: bool,
}

pub(crate) fn get() -> &'static Settings {
    static SETTINGS: Lazy<Settings> = Lazy::new(|| Settings {
        backport: choice("PEP788_ENGINE", &["native", "backport"]) == Some(1),
        drain_grace: match milliseconds("PEP788_DRAIN_GRACE_MS").unwrap_or(1000) {
            -1 => None,
            grace => Some(Duration::from_millis(grace.unsigned_abs())),
        },
        wait_warn: match milliseconds("PEP788_WAIT_WARN_MS").unwrap_or(10_000) {
            ..=0 => None,
            wait => Some(Duration::from_millis(wait.unsigned_abs())),
        },
        trace: choice("PEP788_TRACE", &["0", "1"]) == Some(1),
    });
    &SETTINGS
}

impl Settings {
    /// What is in force, as one would set it: a line for each variable.
    pub(crate) fn lines(&self) -> String {
        let engine = if self.backport { "backport" } else { "native" };
        let grace = self.drain_grace.map_or(-1, |grace| grace.as_millis() as i64);
        let warn = self.wait_warn.map_or(0, |wait| wait.as_millis());
        let trace = u8::from(self.trace);
        format!(
            "PEP788_ENGINE={engine}\nPEP788_DRAIN_GRACE_MS={grace}\nPEP788_WAIT_WARN_MS={warn}\n\
             PEP788_TRACE={trace}\n"
        )
    }
}

fn milliseconds(name: &str) -> Option<i64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let value = text.trim().parse().ok().filter(|value| *value >= -1);
    if value.is_none() {
        complain(name, &text, "a number of milliseconds, or -1");
    }
    value
}

fn choice(name: &str, choices: &[&str]) -> Option<usize> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let value = choices.iter().position(|choice| *choice == text);
    if value.is_none() {
        complain(name, &text, &format!("one of: {}", choices.join(", ")));
    }
    value
}

/// A setting that cannot be understood is not worth a process; it is said, and not followed.
fn complain(name: &str, text: &str, wanted: &str) {
    say(&format!("libpep788: {name}={text:?} is ignored: it takes {wanted}\n"));
}
