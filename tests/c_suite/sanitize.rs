//! `PEP788_SANITIZE`: the suite under a tool that finds errors of memory and races. A scenario
//! then passes only if the tool has nothing to report.
//!
//! `address` (with undefined behaviour) and `thread` compile the C side with the compiler's
//! sanitizers; whether the library is instrumented too is up to whoever built it, see
//! `sanitize/`. `valgrind` takes programs and library as they are.

#[cfg(target_os = "linux")]
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Invocation;
use crate::scenario::{Folder, Scenario};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Address,
    Thread,
    Valgrind,
}

use Tool::{Address, Thread, Valgrind};

const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sanitize/valgrind.supp");

/// Where Debian's Python packages put CPython's own suppressions.
const CPYTHONS: &str = "/usr/lib/valgrind/python3.supp";

impl Tool {
    pub fn chosen() -> Result<Option<Tool>, String> {
        let Some(name) = std::env::var_os("PEP788_SANITIZE").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let tool = name.to_str().and_then(Tool::named);
        tool.map(Some)
            .ok_or_else(|| format!("PEP788_SANITIZE={name:?}: address, thread or valgrind"))
    }

    pub fn named(name: &str) -> Option<Tool> {
        [Address, Thread, Valgrind].into_iter().find(|tool| tool.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Address => "address",
            Thread => "thread",
            Valgrind => "valgrind",
        }
    }

    pub fn compile_flags(self) -> &'static [&'static str] {
        match self {
            Address => &[
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=undefined",
                "-fno-omit-frame-pointer",
            ],
            Thread => &["-fsanitize=thread"],
            Valgrind => &[],
        }
    }

    /// What a process may take when alone it takes `limit`.
    pub fn time_limit(self, limit: Duration) -> Duration {
        limit * if self == Valgrind { 20 } else { 5 }
    }

    /// What is repeated to meet a race is less in need of it: these tools see most races that did
    /// not happen.
    pub fn repeat(self, rounds: u32) -> u32 {
        rounds.min(if self == Valgrind { 1 } else { 3 })
    }

    /// Why a scenario means nothing under this tool, if so.
    pub fn ignored(self, scenario: &Scenario) -> Option<String> {
        let (_, reason) = scenario.not_under.iter().find(|(tool, _)| *tool == self)?;
        Some(format!("{}: {reason}", self.name()))
    }

    /// Runs a process under the tool, which reports into files next to the process' output.
    pub fn wrap(
        self,
        invocation: &mut Invocation,
        folder: Folder,
        compiler: &Path,
    ) -> Result<(), String> {
        let reports = invocation.output.with_extension(REPORT);
        let mut set = |name: &str, value: String| {
            invocation.environment.push((name.to_owned(), value));
        };
        // CPython's own allocator hides what becomes of the memory in it.
        set("PYTHONMALLOC", "malloc".to_owned());
        match self {
            Address => {
                let log = format!("log_path={}", reports.display());
                // CPython leaks a good deal of its own, and allocations that fail are a subject of
                // the suite.
                let memory = "detect_leaks=0:allocator_may_return_null=1";
                let stacks = "detect_stack_use_after_return=1";
                set("ASAN_OPTIONS", format!("{log}:{memory}:{stacks}"));
                set("UBSAN_OPTIONS", format!("{log}:print_stacktrace=1"));
            }
            // Threads that hang when a process ends, and threads in forked children, are subjects of
            // the suite.
            Thread => set(
                "TSAN_OPTIONS",
                format!("log_path={}:report_thread_leaks=0:die_after_fork=0", reports.display()),
            ),
            Valgrind => {}
        }
        let runtimes: &[&str] = match self {
            Address => &["libasan.so", "libubsan.so"],
            Thread => &["libtsan.so"],
            Valgrind => {
                let mut words = vec![
                    "--quiet".to_owned(),
                    format!("--log-file={}.%p", reports.display()),
                    "--trace-children=yes".to_owned(),
                    // The thread that gives up the GIL would be the first to have it again.
                    "--fair-sched=try".to_owned(),
                    "--num-callers=40".to_owned(),
                    format!("--suppressions={OURS}"),
                ];
                if Path::new(CPYTHONS).exists() {
                    words.push(format!("--suppressions={CPYTHONS}"));
                }
                words.push(invocation.program.display().to_string());
                words.append(&mut invocation.arguments);
                invocation.arguments = words;
                invocation.program = PathBuf::from("valgrind");
                return Ok(());
            }
        };
        // An executable that was not compiled for the tool has its runtime preloaded; and where
        // anything else is preloaded, the runtime has to come first.
        if matches!(folder, Folder::Scripts | Folder::Preload) {
            let preloaded =
                invocation.environment.iter_mut().find(|(name, _)| name == "LD_PRELOAD");
            let runtimes: Result<Vec<String>, String> =
                runtimes.iter().map(|name| shared_library(compiler, name)).collect();
            let runtimes = runtimes?.join(":");
            match preloaded {
                Some((_, value)) => *value = format!("{runtimes}:{value}"),
                None => invocation.environment.push(("LD_PRELOAD".to_owned(), runtimes)),
            }
        }
        Ok(())
    }

    /// What the tool has reported of processes that ran with this `output`.
    pub fn reports(self, output: &Path) -> String {
        report_files(output)
            .iter()
            .filter_map(|path| std::fs::read(path).ok())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .filter(|text| !text.trim().is_empty())
            .collect()
    }

    /// Before a process is run.
    pub fn prepare(self, output: &Path, command: &mut Command) {
        for old in report_files(output) {
            let _ = std::fs::remove_file(old);
        }
        // The sanitizers' shadow has fixed places, which a randomized layout may need for itself. Where
        // this is forbidden it may still go well.
        #[cfg(target_os = "linux")]
        let fixed_layout = || {
            // SAFETY: a system call that takes a number.
            unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
            Ok(())
        };
        // SAFETY: the closure makes one async-signal-safe call.
        #[cfg(target_os = "linux")]
        unsafe {
            command.pre_exec(fixed_layout)
        };
        #[cfg(not(target_os = "linux"))]
        let _ = command;
    }
}

const REPORT: &str = "report";

/// The tools append the number of the process to the name that they are given.
fn report_files(output: &Path) -> Vec<PathBuf> {
    let start = format!("{}.{REPORT}.", output.file_name().unwrap().to_string_lossy());
    let mut files: Vec<PathBuf> = std::fs::read_dir(output.parent().unwrap())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&start))
        .collect();
    files.sort();
    files
}

/// The compiler's own shared library of this name.
fn shared_library(compiler: &Path, name: &str) -> Result<String, String> {
    let output = Command::new(compiler).arg(format!("-print-file-name={name}")).output();
    let path = output.map_err(|error| error.to_string())?.stdout;
    let path = String::from_utf8_lossy(&path).trim().to_owned();
    match Path::new(&path).is_absolute() {
        true => Ok(path),
        false => Err(format!("the compiler has no {name} that could be preloaded")),
    }
}
