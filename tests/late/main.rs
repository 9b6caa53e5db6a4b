//! Programs without Python that load one late, for every CPython found that has a shared library: one that calls the
//! library itself (`late.c`), and a host of plugins that knows nothing of it and is protected (`host.c`).

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
#[allow(dead_code)]
#[path = "../c_suite/windows.rs"]
mod windows;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use common::{checked, compiler, library_folder, output_folder, root, Places, LIBRARY};
use process::Invocation;
use python::{Engine, Python, Subject};
use scenario::{End, Expected};

const TIME_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let places = Places { scenarios: root().join("c_tests") };
    let mut trials = Vec::new();
    for subject in python::find(&places) {
        let Some(python) = subject.python.clone() else { continue };
        if !matches!(subject.engine, Engine::Library | Engine::Backport) {
            continue;
        }
        let libpython = shared_library(&python);
        // Linked statically, it can only be there from the beginning.
        let ignored = libpython.is_none();
        let libpython = libpython.unwrap_or_default();
        let subject = Arc::new(subject);
        let late = {
            let (subject, python, libpython) = (subject.clone(), python.clone(), libpython.clone());
            move || check(&subject, &python, &libpython)
        };
        let name = format!("{}::loaded_late", subject.label);
        trials.push(Trial::test(name, late).with_ignored_flag(ignored));
        for case in CASES.iter().filter(|_| cfg!(target_os = "linux")) {
            let (subject, python, libpython) = (subject.clone(), python.clone(), libpython.clone());
            let name = format!("{}::host::{case}", subject.label);
            let host = move || check_host(case, &subject, &python, &libpython);
            trials.push(Trial::test(name, host).with_ignored_flag(ignored));
        }
    }
    let has_python = !trials.is_empty();
    if cfg!(target_os = "linux") {
        trials.push(Trial::test("no-python::nothing_is_said", nothing_is_said));
        trials.push(Trial::test("no-python::too_old_is_said", too_old_is_said));
    }
    if !has_python {
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

// --- A host of plugins, which is protected ----------------------------------------------------------

/// How the host comes to its Python; see `host.c`.
const CASES: [&str; 6] = ["local", "global", "again", "refused", "plugin", "forked"];

fn compile(source: &Path, product: &Path, more: &[&str]) -> Result<(), Failed> {
    let mut command = compiler(false).ok_or("no C compiler (Debian and Ubuntu: package `gcc`)")?;
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    command.arg(source).arg("-o").arg(product).args(more).arg("-ldl");
    checked(&mut command)?;
    Ok(())
}

fn protected() -> Vec<(String, String)> {
    let library = library_folder().join(LIBRARY).display().to_string();
    vec![("LD_PRELOAD".to_owned(), library), ("PEP788_GILSTATE".to_owned(), "protect".to_owned())]
}

fn run_host(
    folder: &Path,
    case: &str,
    arguments: &[&Path],
    environment: Vec<(String, String)>,
    stderr: &[&str],
) -> Result<(), Failed> {
    let program = folder.join(case);
    compile(&root().join("tests/late/host.c"), &program, &[])?;
    let paths = arguments.iter().map(|path| path.display().to_string());
    let invocation = Invocation {
        program,
        arguments: std::iter::once(case.to_owned()).chain(paths).collect(),
        environment,
        output: folder.join(format!("{case}.output")),
    };
    let ended = process::run(&invocation, TIME_LIMIT, None);
    let stderr = stderr.iter().map(|text| (*text).to_owned()).collect();
    let expected = Expected { end: End::Exit(7), stderr, ..Expected::default() };
    process::judge(&ended, &expected)
        .map_err(|why| format!("{why}\nrun: {}\n{}", invocation.shown(), ended.shown()).into())
}

fn check_host(
    case: &'static str,
    subject: &Subject,
    python: &Python,
    libpython: &Path,
) -> Result<(), Failed> {
    let folder = output_folder("host").join(&subject.label);
    std::fs::create_dir_all(&folder)?;
    let plugin = folder.join(format!("{case}.so"));
    let source = plugin.with_extension("plugin.c");
    // Bound as soon as it is loaded, which fails.
    let calls = if case == "refused" { "nowhere" } else { "Py_Initialize" };
    let text =
        format!("void {calls}(void); void plugin(void); void plugin(void) {{ {calls}(); }}\n");
    std::fs::write(&source, text)?;
    let folder_of_python = libpython.parent().ok_or("no folder")?.display();
    let path = format!("-Wl,-rpath,{folder_of_python}");
    let library = libpython.display().to_string();
    compile(&source, &plugin, &["-shared", "-fPIC", "-Wl,--no-as-needed", &library, &path])?;
    let mut environment = protected();
    environment.push(("PYTHONHOME".to_owned(), python.home.clone()));
    if subject.engine == Engine::Backport {
        environment.push(("PEP788_ENGINE".to_owned(), "backport".to_owned()));
    }
    run_host(&folder, case, &[libpython, &plugin], environment, &[])
}

/// Asked for in the environment, protection is silent in all that never has a Python.
fn nothing_is_said() -> Result<(), Failed> {
    for command in ["true", "echo | cat", "env true", "exit 0"] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).envs(protected());
        let done = checked(&mut shell)?;
        if !done.stderr.is_empty() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(format!("{command}: {said}").into());
        }
    }
    Ok(())
}

/// What calls itself a CPython, and is none that could be protected, is told of at the end.
fn too_old_is_said() -> Result<(), Failed> {
    let folder = output_folder("host").join("too_old");
    std::fs::create_dir_all(&folder)?;
    let (source, python) = (folder.join("python.c"), folder.join("libpython2.7.so"));
    let text = "int PyGILState_Ensure(void); int PyGILState_Ensure(void) { return 0; }\n\
        const char *Py_GetVersion(void); const char *Py_GetVersion(void) { return \"2.7\"; }\n";
    std::fs::write(&source, text)?;
    compile(&source, &python, &["-shared", "-fPIC"])?;
    let line =
        "libpep788: PyGILState_Ensure cannot be protected here: there is no CPython 3.9 or later";
    run_host(&folder, "only", &[&python], protected(), &[line])
}
