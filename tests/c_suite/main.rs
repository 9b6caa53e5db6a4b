//! Runs the scenarios of `c_tests/` under every CPython found: one process per scenario, one named
//! test per scenario and Python. `c_tests/README.md` tells how scenarios are written.
//!
//! - `python`   which Pythons there are, which are left out and why
//! - `scenario` what a file of `c_tests/` declares
//! - `build`    compilers, flags, what is up to date
//! - `process`  one process: time limit, backtrace of a hang, what it was expected to do
//! - `sanitize` the same under AddressSanitizer, ThreadSanitizer or valgrind
//! - `windows`  the same for Windows, under wine

mod build;
mod process;
mod python;
mod sanitize;
mod scenario;
mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use build::{Builder, Target};
use python::Subject;
use sanitize::Tool;
use scenario::{is_unprotected, Folder, Scenario, SourceFile};

/// Where things are.
pub struct Places {
    /// `c_tests/`
    pub scenarios: PathBuf,
    /// `include/`, with the library's headers
    pub headers: PathBuf,
    /// `target/c_suite/`, or `target/c_suite-<tool>/`, where everything built or written goes
    pub output: PathBuf,
    /// The folder with the library
    pub library: PathBuf,
}

impl Places {
    fn find(tool: Option<Tool>) -> Places {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // target/<profile>/deps/c_suite-<hash>
        let executable = std::env::current_exe().expect("a running test knows its own path");
        let deps = executable.parent().unwrap();
        let profile = deps.parent().unwrap();
        let given = std::env::var_os("PEP788_LIB_DIR").filter(|folder| !folder.is_empty());
        let library = match given {
            Some(folder) => PathBuf::from(folder),
            // Cargo builds the one in `deps` with the tests; the one above it may be older.
            None if deps.join(build::library_name()).exists() => deps.to_owned(),
            None => profile.to_owned(),
        };
        Places {
            scenarios: root.join("c_tests"),
            headers: root.join("include"),
            output: profile.parent().unwrap().join(match tool {
                None => "c_suite".to_owned(),
                Some(tool) => format!("c_suite-{}", tool.name()),
            }),
            library: library.canonicalize().unwrap_or(library),
        }
    }

    pub fn library_file(&self) -> PathBuf {
        self.library.join(build::library_name())
    }
}

/// One test: this scenario of this file, under this Python.
struct Case {
    subject: Arc<Subject>,
    file: Arc<SourceFile>,
    scenario: Scenario,
}

impl Case {
    fn name(&self) -> String {
        format!("{}::{}::{}", self.subject.label, self.file.name, self.scenario.name)
    }

    /// Why this scenario is not run here, if it is not.
    fn ignored(&self, builder: &Builder) -> Option<String> {
        if self.file.is_cxx() && builder.cxx_compiler().is_none() {
            return Some("no C++ compiler; Debian and Ubuntu: package `g++`".to_owned());
        }
        builder
            .tool
            .and_then(|tool| tool.ignored(&self.scenario))
            .or_else(|| self.not_emulated())
            .or_else(|| self.not_on_arm())
            .or_else(|| self.not_on_macos())
            .or_else(|| self.not_on_musl())
            .or_else(|| self.not_on_windows())
            .or_else(|| self.not_protected())
            .or_else(|| self.scenario.ignored(&self.subject))
    }

    fn not_emulated(&self) -> Option<String> {
        let reason = self.scenario.not_emulated.as_ref().filter(|_| is_emulated())?;
        Some(format!("emulated: {reason}"))
    }

    fn not_on_arm(&self) -> Option<String> {
        let reason = self.scenario.not_on_arm.as_ref().filter(|_| is_for_arm())?;
        Some(format!("arm: {reason}"))
    }

    fn not_protected(&self) -> Option<String> {
        let is_ignored = is_unprotected() && self.file.name.starts_with("seatbelt/");
        is_ignored.then(|| "seatbelt: the library has none for this processor".to_owned())
    }

    fn not_on_macos(&self) -> Option<String> {
        let reason = self.scenario.not_on_macos.as_ref().filter(|_| build::IS_MACOS)?;
        Some(format!("macos: {reason}"))
    }

    fn not_on_musl(&self) -> Option<String> {
        let reason = self.scenario.not_on_musl.as_ref().filter(|_| is_for_musl())?;
        Some(format!("musl: {reason}"))
    }

    fn not_on_windows(&self) -> Option<String> {
        if !windows::is_meant() {
            return None;
        }
        if self.file.folder == Folder::Preload {
            return Some(windows::NO_PRELOAD.to_owned());
        }
        let reason = self.scenario.not_on_windows.as_ref()?;
        Some(format!("windows: {reason}"))
    }

    fn target(&self) -> Target {
        Target { subject: self.subject.clone(), file: self.file.clone() }
    }
}

/// How many passed, failed and were ignored, by the label of the Python.
type Tally = Arc<Mutex<BTreeMap<String, [usize; 3]>>>;

fn main() -> ExitCode {
    let (arguments, words) = arguments();
    let tool = match Tool::chosen() {
        Ok(tool) => tool,
        Err(complaint) => {
            eprintln!("c_suite: {complaint}");
            return ExitCode::FAILURE;
        }
    };
    let places = Arc::new(Places::find(tool));
    let builder = Arc::new(Builder::new(places.clone(), tool));

    if builder.c_compiler().is_none() {
        eprintln!("c_suite: no C compiler found; install one (Debian and Ubuntu: package `gcc`)");
        return ExitCode::FAILURE;
    }
    let subjects = python::find(&places);
    if subjects.iter().all(|subject| subject.python.is_none()) {
        eprintln!(
            "c_suite: no usable CPython (3.9 or later, with its headers); see the list above"
        );
        return ExitCode::FAILURE;
    }

    let (files, complaints) = scenario::read_all(&places.scenarios);
    // Not a test that fails: a filter could leave it out, and with it what the file holds.
    if !complaints.is_empty() {
        eprintln!("c_suite: wrong declarations\n  {}", complaints.join("\n  "));
        return ExitCode::FAILURE;
    }
    let mut cases = cases(&subjects, &files);
    cases.retain(|case| is_chosen(&arguments, &words, &case.name()));

    if !arguments.list {
        let runnable: Vec<&Case> =
            cases.iter().filter(|case| case.ignored(&builder).is_none()).collect();
        if runnable.iter().any(|case| case.target().needs_library())
            && !places.library_file().exists()
        {
            eprintln!(
                "c_suite: {} does not exist; run `cargo build` first, or set PEP788_LIB_DIR",
                places.library_file().display()
            );
            return ExitCode::FAILURE;
        }
        builder.build_all(runnable.iter().map(|case| case.target()));
    }

    let tally: Tally = Tally::default();
    let mut trials: Vec<Trial> = Vec::new();
    for case in cases {
        let (builder, tally) = (builder.clone(), tally.clone());
        trials.push(Trial::ignorable_test(case.name(), move || {
            let outcome = run_case(&builder, &case);
            let column = match &outcome {
                Ok(Completion::Completed) => 0,
                Ok(_) => 2,
                Err(_) => 1,
            };
            let mut tally = tally.lock().unwrap();
            tally.entry(case.subject.label.clone()).or_default()[column] += 1;
            outcome
        }));
    }

    let conclusion = libtest_mimic::run(&arguments, trials);
    print_tally(&tally.lock().unwrap());
    conclusion.exit_code()
}

/// The command line. libtest-mimic takes one filter; here every word must be part of the name, so
/// that `3.11 guard` picks the guard scenarios of one Python.
fn arguments() -> (Arguments, Vec<String>) {
    const WITH_VALUE: [&str; 6] =
        ["--test-threads", "--logfile", "--skip", "--color", "--format", "-Z"];
    let mut options = Vec::new();
    let mut words = Vec::new();
    let mut given = std::env::args();
    options.extend(given.next());
    while let Some(argument) = given.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            options.push(argument);
            options.extend(given.next());
        } else if argument.starts_with('-') {
            options.push(argument);
        } else {
            words.push(argument);
        }
    }
    let mut arguments = Arguments::from_iter(options);
    // A single word stays libtest-mimic's own filter, which counts what it leaves out.
    if words.len() == 1 {
        arguments.filter = words.pop();
    }
    // Two at once: many scenarios are about races, and need the other cores for themselves.
    arguments.test_threads.get_or_insert(2);
    (arguments, words)
}

fn is_chosen(arguments: &Arguments, words: &[String], name: &str) -> bool {
    words.iter().all(|word| name.contains(word))
        && (arguments.list || !arguments.is_filtered_out(&Trial::test(name, || Ok(()))))
}

/// Every scenario under every Python it concerns.
fn cases(subjects: &[Arc<Subject>], files: &[Arc<SourceFile>]) -> Vec<Case> {
    let mut cases = Vec::new();
    for subject in subjects {
        for file in files.iter().filter(|file| file.concerns(subject)) {
            cases.extend(file.scenarios.iter().map(|scenario| Case {
                subject: subject.clone(),
                file: file.clone(),
                scenario: scenario.clone(),
            }));
        }
    }
    cases
}

fn run_case(builder: &Builder, case: &Case) -> Result<Completion, Failed> {
    if let Some(reason) = case.ignored(builder) {
        return Ok(Completion::ignored_with(reason));
    }
    let command = builder.command(&case.target(), &case.scenario)?;
    let (mut rounds, mut time_limit) = (case.scenario.repeat, case.scenario.time_limit);
    if let Some(tool) = builder.tool {
        (rounds, time_limit) = (tool.repeat(rounds), tool.time_limit(time_limit));
    }
    if is_emulated() || windows::is_meant() {
        (rounds, time_limit) = (rounds.min(2), time_limit * 5);
    }
    for round in 1..=rounds {
        let ended = process::run(&command, time_limit, builder.tool);
        if let Err(what) = process::judge(&ended, &case.scenario.expected) {
            let round = match rounds {
                1 => String::new(),
                rounds => format!(" (run {round} of {rounds})"),
            };
            return Err(Failed::from(format!(
                "{what}{round}\n  checks: {}\n  at: {}:{}\n  run: {}\n{}",
                case.scenario.sentence,
                case.file.path.display(),
                case.scenario.line,
                command.shown(),
                ended.shown(),
            )));
        }
    }
    Ok(Completion::Completed)
}

/// Programs run in an emulator (`C_SUITE_EMULATED`): slower, and the races they show are not those of
/// the processor.
fn is_emulated() -> bool {
    std::env::var_os("C_SUITE_EMULATED").is_some()
}

/// Programs are built for 32-bit ARM (`C_SUITE_ARM`), or this one is.
fn is_for_arm() -> bool {
    cfg!(target_arch = "arm") || std::env::var_os("C_SUITE_ARM").is_some()
}

/// Programs are built for musl (`C_SUITE_MUSL`), or this one is.
fn is_for_musl() -> bool {
    cfg!(target_env = "musl") || std::env::var_os("C_SUITE_MUSL").is_some()
}

fn print_tally(tally: &BTreeMap<String, [usize; 3]>) {
    if tally.is_empty() {
        return;
    }
    println!("{:<20}{:>8}{:>8}{:>8}", "", "passed", "failed", "ignored");
    for (label, [passed, failed, ignored]) in tally {
        println!("{label:<20}{passed:>8}{failed:>8}{ignored:>8}");
    }
    println!();
}

/// Which kind of program or module a folder of `c_tests/` holds decides how it is linked.
impl Target {
    pub fn needs_library(&self) -> bool {
        match self.file.folder {
            Folder::Accepted | Folder::Scripts => !self.subject.is_native(),
            Folder::Preload | Folder::Linked => true,
        }
    }
}
