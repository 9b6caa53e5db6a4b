//! The suite for Windows, with `C_SUITE_WINDOWS`: mingw compiles the programs, and wine runs them.

use std::path::Path;
use std::process::Command;

pub const TARGET: &str = "x86_64-pc-windows-gnu";

/// Why no program of `preload/` is run there.
pub const NO_PRELOAD: &str = "windows: there is no LD_PRELOAD";

/// How a process ends where a signal ends it elsewhere: the exit code of `abort`, and what of STATUS_CONTROL_C_EXIT wine
/// hands on.
pub fn end_for(signal: &str) -> String {
    match signal {
        "SIGABRT" => "exit 3".to_owned(),
        "SIGINT" => "exit 58".to_owned(),
        other => other.to_owned(),
    }
}

pub fn is_meant() -> bool {
    std::env::var_os("C_SUITE_WINDOWS").is_some()
}

/// The command that runs a program. WINEPATH says where its DLLs are.
pub fn command(program: &Path) -> Command {
    if program.extension().is_none_or(|end| end != "exe") {
        return Command::new(program);
    }
    let mut command = Command::new("wine");
    command.arg(program);
    command
}

/// What goes into programs and modules: mingw's own libraries, which are not there at run time, and the library. With
/// `-static`, import libraries are only found by their whole names.
pub fn link_flags(library: Option<&Path>) -> Vec<String> {
    let import = library.map(|folder| folder.join("libpep788.dll.a").display().to_string());
    ["-static".to_owned()].into_iter().chain(import).collect()
}

/// What a Python under wine says of its files, with their names outside: the drive Z is all of `/`.
pub fn outside(facts: &str) -> String {
    facts.replace('\\', "/").replace("Z:/", "/").replace("z:/", "/")
}
