//! What the files of `c_tests/` declare: scenarios, and the directives above them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::python::Subject;
use crate::sanitize::Tool;
use crate::windows;

/// How the programs of a folder get the library.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// `accepted/`: linked, but where the interpreter has the API itself also compiled without it
    Accepted,
    /// `preload/`: not linked, run with the library in `LD_PRELOAD`
    Preload,
    /// `scripts/`: Python files, which import the extension modules of `modules/`
    Scripts,
    /// Any other: linked
    Linked,
}

/// A program with its scenarios, or a script, which is one scenario.
pub struct SourceFile {
    /// `accepted/guard`, or `scripts` for every script
    pub name: String,
    pub path: PathBuf,
    pub folder: Folder,
    /// Further files that belong to the program
    pub sources: Vec<PathBuf>,
    /// `// link: no-python`
    pub without_python: bool,
    /// `# link: library` in a script: its modules make sense with the library only
    pub with_library: bool,
    pub scenarios: Vec<Scenario>,
}

/// The library has no seatbelt for the system or the processor (`C_SUITE_UNPROTECTED`).
pub fn is_unprotected() -> bool {
    let is_said = std::env::var_os("C_SUITE_UNPROTECTED").is_some();
    is_said || cfg!(target_os = "macos") || windows::is_meant()
}

impl SourceFile {
    pub fn is_cxx(&self) -> bool {
        [&self.path]
            .into_iter()
            .chain(&self.sources)
            .any(|path| path.extension().is_some_and(|e| e == "cc"))
    }

    /// Whether any scenario of this file is to be run under this subject.
    pub fn concerns(&self, subject: &Subject) -> bool {
        if self.name.starts_with("windows/") && !windows::is_meant() {
            return false;
        }
        if self.name == "accepted/unprotected" && !is_unprotected() {
            return false;
        }
        if self.without_python || subject.python.is_none() {
            return self.without_python && subject.python.is_none();
        }
        // A subject without the library can run only what needs none.
        let has_the_api = match self.folder {
            Folder::Accepted => true,
            Folder::Scripts => !self.with_library,
            Folder::Preload | Folder::Linked => false,
        };
        !subject.is_native() || has_the_api
    }
}

#[derive(Clone)]
pub struct Scenario {
    pub name: String,
    /// The sentence of the contract it checks
    pub sentence: String,
    pub line: usize,
    pub expected: Expected,
    pub environment: Vec<(String, String)>,
    pub repeat: u32,
    pub time_limit: Duration,
    pythons: Vec<String>,
    /// Why the interpreter's own implementation is not held to this
    not_native: Option<String>,
    /// ... where it answers without the library
    not_alone: Option<String>,
    /// Why it cannot be run in an emulator
    pub not_emulated: Option<String>,
    /// Why it is not for 32-bit ARM
    pub not_on_arm: Option<String>,
    /// Why it is not for macOS
    pub not_on_macos: Option<String>,
    /// Why it is not for musl
    pub not_on_musl: Option<String>,
    /// Why it cannot be run on Windows
    pub not_on_windows: Option<String>,
    /// Tools of `PEP788_SANITIZE` that it cannot be run under, and why
    pub not_under: Vec<(Tool, String)>,
}

/// How the process has to end, and what it has to print.
#[derive(Clone)]
pub struct Expected {
    pub end: End,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    /// By this signal, named `SIGINT`
    Signal(String),
    /// By CPython's fatal error, said by this function and with this text
    Fatal {
        function: String,
        text: String,
    },
}

impl Default for Expected {
    fn default() -> Self {
        Expected { end: End::Exit(0), stdout: Vec::new(), stderr: Vec::new() }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            name: String::new(),
            sentence: String::new(),
            line: 1,
            expected: Expected::default(),
            environment: Vec::new(),
            repeat: 1,
            time_limit: Duration::from_secs(60),
            pythons: Vec::new(),
            not_native: None,
            not_alone: None,
            not_emulated: None,
            not_on_arm: None,
            not_on_macos: None,
            not_on_musl: None,
            not_on_windows: None,
            not_under: Vec::new(),
        }
    }
}

impl Scenario {
    /// Why this scenario is not run under this subject, if it is not.
    pub fn ignored(&self, subject: &Subject) -> Option<String> {
        if let (Some(reason), true) = (&self.not_native, subject.is_served_natively()) {
            return Some(format!("native: {reason}"));
        }
        if let (Some(reason), true) = (&self.not_alone, subject.is_alone()) {
            return Some(format!("alone: {reason}"));
        }
        let python = subject.python.as_ref()?;
        let holds = |condition: &str| match condition {
            "gil" => !python.free_threaded,
            "free-threaded" => python.free_threaded,
            "release" => !python.debug,
            "debug" => python.debug,
            bound => {
                let (relation, version) = bound_of(bound).expect("checked when it was read");
                let minor = python.hexversion & 0xFFFF_0000;
                match relation {
                    ">=" => minor >= version,
                    "!=" => minor != version,
                    _ => minor < version,
                }
            }
        };
        let fits = self.pythons.iter().all(|condition| holds(condition));
        (!fits).then(|| format!("for Pythons {}", self.pythons.join(" ")))
    }

    /// Takes in one `key: value`.
    fn direct(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "expect" => self.expect(value)?,
            "env" => {
                let (name, content) = value.split_once('=').ok_or("env: wants NAME=VALUE")?;
                self.environment.push((name.to_owned(), content.to_owned()));
            }
            "pythons" => {
                for condition in value.split_whitespace() {
                    if !["gil", "free-threaded", "release", "debug"].contains(&condition) {
                        bound_of(condition)
                            .ok_or_else(|| format!("pythons: does not know `{condition}`"))?;
                    }
                    self.pythons.push(condition.to_owned());
                }
            }
            "native" => self.not_native = Some(reason_of(key, value)?),
            "alone" => self.not_alone = Some(reason_of(key, value)?),
            "emulated" => self.not_emulated = Some(reason_of(key, value)?),
            "macos" => self.not_on_macos = Some(reason_of(key, value)?),
            "arm" => self.not_on_arm = Some(reason_of(key, value)?),
            "musl" => self.not_on_musl = Some(reason_of(key, value)?),
            "windows" => self.not_on_windows = Some(reason_of(key, value)?),
            "sanitize" => self.not_under.extend(not_under(value)?),
            "timeout" => self.time_limit = Duration::from_secs(u64::from(number(key, value)?)),
            "repeat" => self.repeat = number(key, value)?,
            _ => return Err(format!("unknown directive `{key}`")),
        }
        Ok(())
    }

    fn expect(&mut self, value: &str) -> Result<(), String> {
        let (kind, rest) = value.split_once(' ').unwrap_or((value, ""));
        match kind {
            "exit" => self.expected.end = End::Exit(number("expect: exit", rest)? as i32),
            "signal" => self.expected.end = End::Signal(rest.to_owned()),
            "fatal" => {
                let (function, text) = rest.split_once(' ').unwrap_or((rest, "\"\""));
                self.expected.end =
                    End::Fatal { function: function.to_owned(), text: quoted(text)? };
            }
            "stdout" => self.expected.stdout.push(quoted(rest)?),
            "stderr" => self.expected.stderr.push(quoted(rest)?),
            _ => return Err(format!("unknown expectation `{kind}`")),
        }
        Ok(())
    }
}

/// `no, <reason>`
fn reason_of(key: &str, value: &str) -> Result<String, String> {
    let reason =
        value.strip_prefix("no, ").ok_or_else(|| format!("{key}: wants `no, <reason>`"))?;
    Ok(reason.to_owned())
}

/// `not address thread, <reason>`
fn not_under(value: &str) -> Result<Vec<(Tool, String)>, String> {
    let (tools, reason) = value
        .strip_prefix("not ")
        .and_then(|value| value.split_once(", "))
        .ok_or("sanitize: wants `not <tools>, <reason>`")?;
    let tool = |name| Tool::named(name).ok_or_else(|| format!("sanitize: does not know `{name}`"));
    tools.split_whitespace().map(|name| Ok((tool(name)?, reason.to_owned()))).collect()
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{key} wants a number, not `{value}`"))
}

fn quoted(text: &str) -> Result<String, String> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(inner.ok_or_else(|| format!("`{text}` is not in quotes"))?.to_owned())
}

/// `>=3.13` is `>=` and 0x030D0000; the other relations are `<` and `!=`.
fn bound_of(condition: &str) -> Option<(&str, u32)> {
    let (relation, version) = condition.split_at(condition.find('3')?);
    let minor: u32 = version.strip_prefix("3.")?.parse().ok()?;
    [">=", "<", "!="].contains(&relation).then_some((relation, 0x0300_0000 | minor << 16))
}

/// Reads every program and script below `c_tests/`; besides, what is wrong with their declarations.
pub fn read_all(root: &Path) -> (Vec<Arc<SourceFile>>, Vec<String>) {
    let mut files = Vec::new();
    let mut complaints = Vec::new();
    for path in sources_below(root) {
        let folder_name = path.parent().unwrap().strip_prefix(root).unwrap().to_string_lossy();
        let stem = path.file_stem().unwrap().to_string_lossy();
        let name = format!("{folder_name}/{stem}");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                complaints.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        let read = if path.extension().is_some_and(|extension| extension == "py") {
            read_script(&path, &stem, &text)
        } else {
            read_program(&path, &name, &folder_name, &text)
        };
        match read {
            Ok(file) => files.push(Arc::new(file)),
            Err(complaint) => complaints.push(complaint),
        }
    }
    (files, complaints)
}

/// C and C++ files in the subfolders other than `modules/`, and the Python files of `scripts/`.
/// A leading underscore marks a file that belongs to another's program.
fn sources_below(root: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for folder in list(root).into_iter().filter(|path| path.is_dir()) {
        let wanted: &[&str] = match &*folder.file_name().unwrap().to_string_lossy() {
            "modules" => &[],
            "scripts" => &["py"],
            _ => &["c", "cc"],
        };
        paths.extend(list(&folder).into_iter().filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            !name.starts_with('_') && wanted.contains(&&*extension)
        }));
    }
    paths
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// `// key: value` is a directive when the key is one lowercase word; other comments are prose.
fn directive<'a>(line: &'a str, comment: &str) -> Option<(&'a str, &'a str)> {
    let (key, value) = line.strip_prefix(comment)?.strip_prefix(' ')?.split_once(": ")?;
    let is_word =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_word.then_some((key, value.trim_end()))
}

/// Whether an extension module says that it makes sense with the library only.
pub fn wants_library(module: &str) -> bool {
    module.lines().any(|line| directive(line, "//") == Some(("link", "library")))
}

fn read_program(path: &Path, name: &str, folder: &str, text: &str) -> Result<SourceFile, String> {
    let mut file = SourceFile {
        name: name.to_owned(),
        path: path.to_owned(),
        folder: match folder {
            "accepted" => Folder::Accepted,
            "preload" => Folder::Preload,
            _ => Folder::Linked,
        },
        sources: Vec::new(),
        without_python: false,
        with_library: false,
        scenarios: Vec::new(),
    };
    // For all scenarios.
    let mut nowhere = Vec::new();
    let mut not_on_macos = None;
    let mut not_on_windows = None;
    // Directives not yet claimed by a scenario.
    let mut pending: Option<Scenario> = None;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let at = |what: String| format!("{}:{}: {what}", path.display(), index + 1);
        if let Some(rest) = line.strip_prefix("SCENARIO(") {
            let mut scenario = pending.take().unwrap_or_default();
            let (scenario_name, _) = rest
                .split_once(',')
                .ok_or_else(|| at("SCENARIO wants a name and a sentence".to_owned()))?;
            scenario.name = scenario_name.trim().to_owned();
            scenario.sentence = sentence(&lines[index..]);
            scenario.line = index + 1;
            file.scenarios.push(scenario);
            continue;
        }
        match directive(line, "//") {
            Some(("sources", names)) => {
                file.sources.extend(names.split_whitespace().map(|name| path.with_file_name(name)))
            }
            Some(("link", "no-python")) => file.without_python = true,
            Some(("sanitize-file", value)) => nowhere.extend(not_under(value).map_err(at)?),
            Some(("macos-file", value)) => {
                not_on_macos = Some(reason_of("macos-file", value).map_err(at)?);
            }
            Some((key @ "windows-file", value)) => {
                not_on_windows = Some(reason_of(key, value).map_err(at)?)
            }
            Some((key, value)) => {
                pending.get_or_insert_default().direct(key, value).map_err(at)?;
            }
            None if pending.is_some() && !line.starts_with("//") => {
                return Err(at("the directives above stand above no SCENARIO".to_owned()));
            }
            None => {}
        }
    }
    for scenario in &mut file.scenarios {
        scenario.not_under.extend(nowhere.iter().cloned());
        scenario.not_on_macos = not_on_macos.clone().or(scenario.not_on_macos.take());
        scenario.not_on_windows = not_on_windows.clone().or(scenario.not_on_windows.take());
    }
    if file.scenarios.is_empty() {
        return Err(format!("{}: no SCENARIO in it", path.display()));
    }
    Ok(file)
}

/// The string literals of a `SCENARIO(name, "..." "...") {`.
fn sentence(lines: &[&str]) -> String {
    let head: Vec<&str> = lines.iter().copied().take_while(|line| !line.starts_with('{')).collect();
    let head = head.join("\n");
    let head = head.split("\")").next().unwrap_or_default();
    head.split('"').skip(1).step_by(2).collect()
}

/// A script's directives and sentence are the comments at its top.
fn read_script(path: &Path, stem: &str, text: &str) -> Result<SourceFile, String> {
    let mut scenario = Scenario { name: stem.to_owned(), ..Scenario::default() };
    let mut prose = Vec::new();
    let mut with_library = false;
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        match directive(line, "#") {
            Some(("link", "library")) => with_library = true,
            Some((key, value)) => {
                scenario.direct(key, value).map_err(|what| format!("{}: {what}", path.display()))?
            }
            None => prose.push(line.trim_start_matches('#').trim()),
        }
    }
    scenario.sentence = prose.join(" ");
    Ok(SourceFile {
        name: "scripts".to_owned(),
        path: path.to_owned(),
        folder: Folder::Scripts,
        sources: Vec::new(),
        without_python: false,
        with_library,
        scenarios: vec![scenario],
    })
}
