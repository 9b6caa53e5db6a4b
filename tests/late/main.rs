//! A program without Python that loads one late, for every CPython found that has a shared library; see
//! `late.c`.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)] // the C suite needs more of these
#[path = "../c_suite/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../c_suite/python.rs"]
mod python;
#[allow(dead_code)]
#[path = "../c_suite/sanitize.rs"]
mod sanitize;
#[allow(dead_code)]
#[path = "../c_suite/scenario.rs"]
mod scenario;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use common::{checked, compiler, library_folder, output_folder, root, Places, LIBRARY};
use process::Invocation;
use python::{Engine, Python, Subject};
use scenario::Expected;

const TIME_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let places = Places { scenarios: root().join("c_tests") };
    let trials: Vec<Trial> = python::find(&places)
        .into_iter()
        .filter(|subject| matches!(subject.engine, Engine::Library | Engine::Backport))
        .filter_map(|subject| {
            let python = subject.python.clone()?;
            let libpython = shared_library(&python);
            let name = format!("{}::loaded_late", subject.label);
            // Linked statically, it can only be there from the beginning.
            let ignored = libpython.is_none();
            let test = move || check(&subject, &python, &libpython.unwrap_or_default());
            Some(Trial::test(name, test).with_ignored_flag(ignored))
        })
        .collect();
    if trials.is_empty() {
        eprintln!("late: no usable CPython; see the list above");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What programs that embed this Python are linked with.
fn shared_library(python: &Python) -> Option<PathBuf> {
    let of_flag = |start| python.link_flags.iter().find_map(|flag| flag.strip_prefix(start));
    let folder: &str = of_flag("-L")?;
    let name = of_flag("-lpython")?;
    let path = Path::new(folder).join(format!("libpython{name}.so"));
    path.exists().then_some(path)
}

fn check(subject: &Subject, python: &Python, libpython: &Path) -> Result<(), Failed> {
    let folder = output_folder("late").join(&subject.label);
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("late");
    let mut command = compiler(false).ok_or("no C compiler (Debian and Ubuntu: package `gcc`)")?;
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    command.arg(root().join("tests/late/late.c")).arg("-o").arg(&program).arg("-ldl");
    checked(&mut command)?;

    let mut environment = vec![("PYTHONHOME".to_owned(), python.home.clone())];
    if subject.engine == Engine::Backport {
        environment.push(("PEP788_ENGINE".to_owned(), "backport".to_owned()));
    }
    let library = library_folder().join(LIBRARY);
    let invocation = Invocation {
        program,
        arguments: vec![libpython.display().to_string(), library.display().to_string()],
        environment,
        output: folder.join("output"),
    };
    let ended = process::run(&invocation, TIME_LIMIT, None);
    process::judge(&ended, &Expected::default())
        .map_err(|why| format!("{why}\nrun: {}\n{}", invocation.shown(), ended.shown()).into())
}
