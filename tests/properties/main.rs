//! Random sequences of API calls, under every CPython found: what each call returns, what is attached
//! afterwards, and for what an exit waits must be what a small model says.
//!
//! - `model`    what must come of each call; makes a script of legal calls from a random case
//! - `driver.c` carries a script out, in a process of its own for each case
//!
//! A case that fails is made as small as it gets, and shown. All runs take the same cases, so that who
//! runs the tests is not surprised by old bugs; another seed, and more cases, look for new ones:
//!
//!     PROPTEST_RNG_SEED=12345 PROPTEST_CASES=1000 cargo test --test properties

#[path = "../common/mod.rs"]
mod common;
mod model;
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

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use common::{checked, compiler, library_folder, output_folder, root, Places, LIBRARY};
use model::{Case, Model, Step};
use process::Invocation;
use python::{Engine, Python, Subject};
use scenario::Expected;

const CASES: u32 = 60;
const SEED: u64 = 788;

/// A case takes a fraction of a second; one that hangs fails.
const TIME_LIMIT: Duration = Duration::from_secs(30);
const SHRINK_LIMIT_MS: u32 = 30_000;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let places = Places { scenarios: root().join("c_tests") };
    let seed = match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SEED,
    };
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |_| Config::default().cases);
    println!("properties: PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
    let trials: Vec<Trial> = python::find(&places)
        .into_iter()
        // On 3.15 the model is of this library's implementation.
        .filter(|subject| matches!(subject.engine, Engine::Library | Engine::Backport))
        .filter_map(|subject| {
            let python = subject.python.clone()?;
            let name = format!("{}::random_calls", subject.label);
            // A debug build before 3.12 forbids a second thread state of an interpreter in a thread.
            let ignored = python.debug && python.hexversion < 0x030C_0000;
            let test = move || check(&subject, &python, seed, cases);
            Some(Trial::test(name, test).with_ignored_flag(ignored))
        })
        .collect();
    if trials.is_empty() {
        eprintln!("properties: no usable CPython; see the list above");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn check(subject: &Subject, python: &Python, seed: u64, cases: u32) -> Result<(), Failed> {
    let folder = output_folder("properties").join(&subject.label);
    std::fs::create_dir_all(&folder)?;
    let driver = build(python, &folder)?;
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_time: SHRINK_LIMIT_MS,
        max_shrink_iters: u32::MAX,
        ..Config::default()
    };
    let (calls, waits) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run = |case: Case| {
        let steps = Model::script(&case, python.hexversion);
        calls.fetch_add(steps.len(), Ordering::Relaxed);
        let waiting = steps.iter().filter(|step| step.expected.result == "begun").count();
        waits.fetch_add(waiting, Ordering::Relaxed);
        carry_out(subject, python, &driver, &folder, &case, &steps).map_err(TestCaseError::fail)
    };
    TestRunner::new(config).run(&model::case(), run).map_err(|error| match error {
        // The case itself is random numbers; its script says more.
        proptest::test_runner::TestError::Fail(reason, _) => format!("{reason}"),
        aborted => aborted.to_string(),
    })?;
    println!(
        "properties: {}: {} calls, {} exits that had to wait",
        subject.label,
        calls.into_inner(),
        waits.into_inner()
    );
    Ok(())
}

fn build(python: &Python, folder: &Path) -> Result<PathBuf, String> {
    let product = folder.join("driver");
    let mut command = compiler(false).ok_or("no C compiler (Debian and Ubuntu: package `gcc`)")?;
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    // Warnings in CPython's headers are not ours; and what 3.12 deprecates serves them all.
    command.arg("-Wno-deprecated-declarations");
    command.args(python.include_flags.iter().map(|flag| {
        flag.strip_prefix("-I").map_or(flag.clone(), |folder| format!("-isystem{folder}"))
    }));
    command.arg(root().join("tests/properties/driver.c")).arg("-o").arg(&product);
    command.arg("-ldl").args(&python.link_flags);
    checked(&mut command)?;
    Ok(product)
}

/// Runs the script of a case, and compares.
fn carry_out(
    subject: &Subject,
    python: &Python,
    driver: &Path,
    folder: &Path,
    case: &Case,
    steps: &[Step],
) -> Result<(), String> {
    let script = folder.join("script");
    let lines: String = steps.iter().map(|step| format!("{}\n", step.line)).collect();
    std::fs::write(&script, lines).map_err(|error| error.to_string())?;
    let library = library_folder().join(LIBRARY);
    let mut environment = vec![
        ("PYTHONHOME".to_owned(), python.home.clone()),
        (
            "PEP788_DRAIN_GRACE_MS".to_owned(),
            if case.honours_views { "-1" } else { "0" }.to_owned(),
        ),
    ];
    if subject.engine == Engine::Backport {
        environment.push(("PEP788_ENGINE".to_owned(), "backport".to_owned()));
    }
    let invocation = Invocation {
        program: driver.to_owned(),
        arguments: vec![library.display().to_string(), script.display().to_string()],
        environment,
        output: folder.join("output"),
    };
    let ended = process::run(&invocation, TIME_LIMIT, None);
    let said: Vec<&str> = ended.stdout.lines().collect();
    let compared = compare(steps, &said);
    let judged = process::judge(&ended, &Expected::default());
    if compared.is_ok() && judged.is_ok() {
        return Ok(());
    }
    let mut told = String::new();
    for (index, step) in steps.iter().enumerate().take(said.len() + 1) {
        told += &format!("{:<30} {}\n", step.line, said.get(index).unwrap_or(&"(nothing)"));
    }
    Err(format!(
        "{}\n{told}{}\nrun: {}\n{}",
        compared.err().unwrap_or_default(),
        judged.err().unwrap_or_default(),
        invocation.shown(),
        ended.shown()
    ))
}

/// Whether the driver said what the model expects. Thread states have names of the model's on one side,
/// and CPython's numbers on the other: each must stand for one.
fn compare(steps: &[Step], said: &[&str]) -> Result<(), String> {
    let mut number_of: HashMap<usize, &str> = HashMap::new();
    for (step, line) in steps.iter().zip(said) {
        let (result, attached) = line.rsplit_once(' ').unwrap_or((line, ""));
        if result != step.expected.result {
            return Err(format!("`{}`: `{}` expected", step.line, step.expected.result));
        }
        let right = match step.expected.attached {
            None => attached == "-",
            Some((state, interpreter)) => {
                let known = *number_of.entry(state).or_insert(attached);
                attached == known && attached.split(':').next() == Some(&interpreter.to_string())
            }
        };
        if !right {
            let name = |(state, interpreter): (usize, u64)| {
                let known = number_of.get(&state).unwrap_or(&"a new one");
                format!("{known}, of interpreter {interpreter}")
            };
            let wanted = step.expected.attached.map_or("nothing".to_owned(), name);
            return Err(format!("`{}`: {wanted} expected to be attached", step.line));
        }
    }
    match steps.len() <= said.len() {
        true => Ok(()),
        false => Err(format!("`{}`: no answer", steps[said.len()].line)),
    }
}
