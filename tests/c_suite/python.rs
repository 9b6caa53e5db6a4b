//! The Pythons of this machine, and which engine serves the accepted API under each.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::windows;
use crate::Places;

/// From this version on the interpreter has the accepted API itself.
const NATIVE_SINCE: u32 = 0x030F_0000;

/// A CPython that can be embedded: what `c_tests/pyinfo.py` says of it.
pub struct Python {
    pub hexversion: u32,
    pub free_threaded: bool,
    pub debug: bool,
    /// Embedding programs link with the shared library
    pub shared: bool,
    pub executable: PathBuf,
    pub home: String,
    pub include_flags: Vec<String>,
    pub link_flags: Vec<String>,
    pub extension_suffix: String,
}

/// Who serves the accepted API.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The library, as there is nobody else (before 3.15)
    Library,
    /// The interpreter, without the library
    Native,
    /// The library, which hands on to the interpreter
    Handover,
    /// The library's own implementation where the interpreter has one too
    Backport,
}

/// What a scenario is run under: a Python and an engine, or no Python at all.
pub struct Subject {
    pub label: String,
    pub python: Option<Arc<Python>>,
    pub engine: Engine,
}

impl Subject {
    /// Without the library, on the interpreter's own implementation.
    pub fn is_native(&self) -> bool {
        self.engine == Engine::Native
    }

    /// No function of the library is called: it is not there, or the program has the interpreter in itself.
    pub fn is_alone(&self) -> bool {
        let linked_in = self.python.as_ref().is_some_and(|python| !python.shared);
        self.is_native() || (self.engine == Engine::Handover && linked_in)
    }

    /// The interpreter's own implementation answers, with the library before it or without.
    pub fn is_served_natively(&self) -> bool {
        matches!(self.engine, Engine::Native | Engine::Handover)
    }
}

/// Finds the Pythons, and prints which are used and which are not and why.
pub fn find(places: &Places) -> Vec<Arc<Subject>> {
    let script = places.scenarios.join("pyinfo.py");
    let mut found: Vec<(String, Arc<Python>)> = Vec::new();
    let mut seen = HashSet::new();
    eprintln!("c_suite: Pythons");
    for candidate in candidates() {
        match inspect(&candidate, &script) {
            Ok((version, python)) => {
                if seen.insert(python.executable.clone()) {
                    found.push((version, Arc::new(python)));
                }
            }
            Err(Skipped { executable, reason }) => {
                if seen.insert(executable) {
                    eprintln!("  skipped  {}: {reason}", candidate.display());
                }
            }
        }
    }
    found.sort_by_key(|(_, python)| (python.hexversion, python.free_threaded, python.debug));

    let mut subjects = Vec::new();
    for (label, python) in labelled(found) {
        eprintln!("  used     {label:<14} {}", python.executable.display());
        let engines: &[(&str, Engine)] = if python.hexversion < NATIVE_SINCE {
            &[("", Engine::Library)]
        } else {
            &[
                ("-native", Engine::Native),
                ("-handover", Engine::Handover),
                ("-backport", Engine::Backport),
            ]
        };
        subjects.extend(engines.iter().map(|(suffix, engine)| {
            Arc::new(Subject {
                label: format!("{label}{suffix}"),
                python: Some(python.clone()),
                engine: *engine,
            })
        }));
    }
    subjects.push(Arc::new(Subject {
        label: "no-python".to_owned(),
        python: None,
        engine: Engine::Library,
    }));
    subjects
}

/// Executables worth asking: the one named by `PYTHON`, or else everywhere Pythons usually are.
fn candidates() -> Vec<PathBuf> {
    if let Some(python) = std::env::var_os("PYTHON") {
        return vec![PathBuf::from(python)];
    }
    let mut candidates = vec![PathBuf::from("python3")];
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    for version in pyenv.iter().flat_map(|root| entries(&root.join("versions"))) {
        candidates.push(version.join("bin/python"));
    }
    for folder in ["/usr/bin", "/usr/local/bin"] {
        candidates.extend(entries(Path::new(folder)).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("python3.").is_some_and(is_version_tail)
        }));
    }
    candidates
}

/// `11`, `13t`, `13-dbg`, but not `11-config`.
fn is_version_tail(tail: &str) -> bool {
    let kind = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    kind.len() < tail.len() && ["", "t", "d", "td", "-dbg", "-nogil"].contains(&kind)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    entries
}

struct Skipped {
    executable: PathBuf,
    reason: String,
}

/// Asks one executable what it is; its version with `t` or `d` behind, and the rest.
fn inspect(candidate: &Path, script: &Path) -> Result<(String, Python), Skipped> {
    let skipped = |reason: String| Skipped { executable: candidate.to_owned(), reason };
    let output = windows::command(candidate)
        .arg("-B")
        .arg(script)
        .output()
        .map_err(|error| skipped(format!("cannot be run: {error}")))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        return Err(skipped(format!("c_tests/pyinfo.py failed: {complaint}")));
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if windows::is_meant() {
        text = windows::outside(&text);
    }
    let facts: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let fact = |key: &str| {
        let value = facts.get(key).copied();
        value.ok_or_else(|| skipped(format!("c_tests/pyinfo.py does not say `{key}`")))
    };

    let version = fact("version")?;
    if fact("implementation")? != "CPython" {
        return Err(skipped(format!("{} {version}, not CPython", fact("implementation")?)));
    }
    let hexversion = u32::from_str_radix(fact("hexversion")?.trim_start_matches("0x"), 16)
        .map_err(|error| skipped(format!("odd hexversion: {error}")))?;
    if hexversion < 0x0309_0000 {
        return Err(skipped(format!("{version} is too old, 3.9 is the first")));
    }
    if fact("has_headers")? != "1" {
        let short: Vec<&str> = version.split('.').take(2).collect();
        return Err(Skipped {
            executable: PathBuf::from(fact("executable")?),
            reason: format!(
                "{version} has no Python.h; install its headers (Debian and Ubuntu: package `python{}-dev`)",
                short.join(".")
            ),
        });
    }
    let words =
        |key: &str| Ok::<_, Skipped>(fact(key)?.split_whitespace().map(str::to_owned).collect());
    let python = Python {
        hexversion,
        free_threaded: fact("gil_disabled")? == "1",
        debug: fact("debug")? == "1",
        shared: fact("shared")? == "1",
        executable: PathBuf::from(fact("executable")?),
        home: fact("home")?.to_owned(),
        include_flags: words("cflags")?,
        link_flags: words("ldflags_embed")?,
        extension_suffix: fact("ext_suffix")?.to_owned(),
    };
    let build = ["", "t"][usize::from(python.free_threaded)].to_owned()
        + ["", "d"][usize::from(python.debug)];
    Ok((format!("{version}{build}"), python))
}

/// Labels: the version, and where two have the same, the name of the folder each is installed in.
fn labelled(found: Vec<(String, Arc<Python>)>) -> Vec<(String, Arc<Python>)> {
    let mut taken = HashSet::new();
    let versions: Vec<String> = found.iter().map(|(version, _)| version.clone()).collect();
    let mut labelled = Vec::new();
    for (version, python) in found {
        let mut label = version.clone();
        if versions.iter().filter(|other| **other == version).count() > 1 {
            let folder = Path::new(&python.home).file_name().unwrap_or_default();
            if folder != version.as_str() {
                label = format!("{version}-{}", folder.to_string_lossy());
            }
        }
        let plain = label.clone();
        let mut number = 2;
        while !taken.insert(label.clone()) {
            label = format!("{plain}-{number}");
            number += 1;
        }
        labelled.push((label, python));
    }
    labelled
}
