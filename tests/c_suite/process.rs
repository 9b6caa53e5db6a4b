//! One process: run with a time limit, and judged by what was expected of it.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::sanitize::Tool;
use crate::scenario::{End, Expected};
use crate::windows;

/// A program to run; it writes its output next to `output`, as `<output>.stdout` and `.stderr`.
pub struct Invocation {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub output: PathBuf,
}

impl Invocation {
    /// As one would type it.
    pub fn shown(&self) -> String {
        let mut words: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.push(self.program.display().to_string());
        words.extend(self.arguments.iter().cloned());
        words.join(" ")
    }
}

/// How a process ended, and what it said.
pub struct Ended {
    how: How,
    pub stdout: String,
    stderr: String,
    /// What the tool it ran under has to say
    report: String,
}

enum How {
    Status(ExitStatus),
    TimedOut { limit: Duration, backtrace: String },
    NotStarted(String),
}

impl Ended {
    pub fn shown(&self) -> String {
        let mut shown = String::new();
        let mut section = |title: &str, text: &str| {
            if !text.trim().is_empty() {
                shown.push_str(&format!("--- {title}\n{}\n", text.trim_end()));
            }
        };
        section("stdout", &self.stdout);
        section("stderr", &self.stderr);
        section("report", &self.report);
        if let How::TimedOut { backtrace, .. } = &self.how {
            section("where its threads were", backtrace);
        }
        shown
    }
}

pub fn run(invocation: &Invocation, limit: Duration, tool: Option<Tool>) -> Ended {
    let stdout = invocation.output.with_extension("stdout");
    let stderr = invocation.output.with_extension("stderr");
    let how = match start(invocation, &stdout, &stderr, tool) {
        Ok(child) => wait(child, limit),
        Err(error) => How::NotStarted(error.to_string()),
    };
    let report = tool.map_or(String::new(), |tool| tool.reports(&invocation.output));
    Ended { how, stdout: read(&stdout), stderr: read(&stderr), report }
}

/// In a process group of its own, so that nothing it started outlives it; output into files, as a
/// pipe would be held open by such a survivor.
fn start(
    invocation: &Invocation,
    stdout: &Path,
    stderr: &Path,
    tool: Option<Tool>,
) -> std::io::Result<std::process::Child> {
    let mut command = windows::command(&invocation.program);
    command.args(&invocation.arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // `cargo test` puts its own folders into LD_LIBRARY_PATH (on macOS into DYLD_FALLBACK_LIBRARY_PATH), where an
        // older library may lie.
        let misleads = ["PYTHON", "PEP788_", "LD_LIBRARY_PATH", "DYLD_"];
        // Whoever has the library preloaded may say which engine it is to be.
        let is_chosen = text == "PEP788_ENGINE" && std::env::var_os("LD_PRELOAD").is_some();
        if misleads.iter().any(|prefix| text.starts_with(prefix)) && !is_chosen {
            command.env_remove(&name);
        }
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.envs(invocation.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(File::create(stdout)?).stderr(File::create(stderr)?);
    command.process_group(0);
    // Many scenarios abort by intention: no core files.
    let without_core = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: setrlimit is async-signal-safe and reads a valid struct.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
        Ok(())
    };
    // SAFETY: the closure makes one async-signal-safe call.
    unsafe { command.pre_exec(without_core) };
    if let Some(tool) = tool {
        tool.prepare(&invocation.output, &mut command);
    }
    command.spawn()
}

fn wait(mut child: std::process::Child, limit: Duration) -> How {
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || sender.send(child.wait()));
    let how = match receiver.recv_timeout(limit) {
        Ok(Ok(status)) => How::Status(status),
        Ok(Err(error)) => How::NotStarted(error.to_string()),
        Err(_) => How::TimedOut { limit, backtrace: backtrace(id) },
    };
    // SAFETY: kill takes numbers only; the group is the one `start` made.
    unsafe { libc::killpg(id as libc::pid_t, libc::SIGKILL) };
    let _ = waiter.join();
    how
}

/// What every thread of the process is doing, if there is a gdb to ask. macOS has `sample`, which looks for a second.
fn backtrace(id: u32) -> String {
    let id = id.to_string();
    let words: &[&str] = if cfg!(target_os = "macos") {
        &["sample", &id, "1", "-mayDie"]
    } else {
        &["timeout", "60", "gdb", "-nx", "-batch", "-ex", "thread apply all bt", "-p", &id]
    };
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if !output.stdout.is_empty() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => "(install gdb to see)".to_owned(),
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Whether the process did what was expected; else what it did instead.
pub fn judge(ended: &Ended, expected: &Expected) -> Result<(), String> {
    // First: a process that a tool found something in may well end in another way.
    if !ended.report.is_empty() {
        return Err("there is a report of the tool".to_owned());
    }
    let status = match &ended.how {
        How::Status(status) => status,
        How::TimedOut { limit, .. } => {
            return Err(format!("still running after {} s, killed", limit.as_secs()))
        }
        How::NotStarted(error) => return Err(format!("could not be run: {error}")),
    };
    let wanted = match &expected.end {
        End::Exit(code) => format!("exit {code}"),
        End::Signal(name) => name.clone(),
        End::Fatal { .. } => signal_name(libc::SIGABRT),
    };
    let wanted = if windows::is_meant() { windows::end_for(&wanted) } else { wanted };
    let got = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => signal_name(signal),
        (None, None) => status.to_string(),
    };
    if got != wanted {
        return Err(format!("ended by {got}, expected {wanted}"));
    }
    if let End::Fatal { function, text } = &expected.end {
        let start = format!("Fatal Python error: {function}: ");
        let says = |line: &str| line.strip_prefix(&start).is_some_and(|rest| rest.contains(text));
        if !ended.stderr.lines().any(says) {
            return Err(format!("stderr has no \"{start}...{text}...\""));
        }
    }
    let said = |stream: &str, all: &str, parts: &[String]| match parts
        .iter()
        .find(|part| !all.contains(*part))
    {
        Some(part) => Err(format!("{stream} has no \"{part}\"")),
        None => Ok(()),
    };
    said("stdout", &ended.stdout, &expected.stdout)?;
    said("stderr", &ended.stderr, &expected.stderr)
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}
