//! What users of the library see of it: its symbols, its headers, the code and the links in the
//! documents, and that the hosted jobs are the gate's steps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

mod common;

#[allow(dead_code)] // the C suite needs more of it
#[path = "c_suite/python.rs"]
mod python;
#[allow(dead_code)]
#[path = "c_suite/windows.rs"]
mod windows;

use common::{checked, compiler, library_folder, output_folder, root, Places, LIBRARY};
use python::Python;

fn pythons() -> Vec<Arc<Python>> {
    let places = Places { scenarios: root().join("c_tests") };
    let mut found: Vec<Arc<Python>> = Vec::new();
    for python in python::find(&places).iter().filter_map(|subject| subject.python.clone()) {
        // On 3.15 a Python is there once for each engine.
        if !found.iter().any(|known| Arc::ptr_eq(known, &python)) {
            found.push(python);
        }
    }
    assert!(!found.is_empty(), "no usable CPython; see the list above");
    found
}

fn c_compiler() -> Command {
    compiler(false).expect("a C compiler (Debian and Ubuntu: package `gcc`)")
}

/// Does `job` with all `items` on all cores, and fails with all that went wrong.
fn for_all<T: Send>(items: Vec<T>, job: impl Fn(T) -> Result<(), String> + Sync) {
    let queue = std::sync::Mutex::new(items.into_iter());
    let failures = std::sync::Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| loop {
                let next = queue.lock().unwrap().next();
                let Some(item) = next else { break };
                if let Err(failure) = job(item) {
                    failures.lock().unwrap().push(failure);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

// --- Symbols -------------------------------------------------------------------------------------

const ACCEPTED: &str = "pep788.h";
const DRAFT: &str = "pep788_draft.h";
const DOCTOR: &str = "pep788_doctor.h";
const KEEP: &str = "pep788_keep.h";
const GILSTATE: &str = "pep788_gilstate.h";

/// The functions that a header declares.
fn prototypes(header: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("include").join(header)).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    code.push_str(rest);
    let lines: Vec<&str> = code
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("extern \"C\""))
        .collect();
    let names: BTreeSet<String> = lines
        .join("\n")
        .split(';')
        .filter_map(|statement| {
            let (head, _) = statement.split_once('(')?;
            let name = head.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            Some(name.to_owned())
        })
        .collect();
    assert!(!names.is_empty(), "{header} declares nothing");
    names
}

/// The dynamic symbols of a library, asked of `nm`, which comes with every linker.
fn symbols(library: &Path, which: &str) -> BTreeSet<String> {
    let table = if cfg!(target_os = "macos") { "-g" } else { "-D" };
    let done = checked(Command::new("nm").args([table, "-P", which]).arg(library))
        .unwrap_or_else(|failure| panic!("{failure} (Debian and Ubuntu: package `binutils`)"));
    let text = String::from_utf8(done.stdout).unwrap();
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        // `name@VERSION`; on macOS `_name`.
        .filter_map(|name| name.split('@').next())
        .map(|name| {
            name.strip_prefix(if cfg!(target_os = "macos") { "_" } else { "" }).unwrap_or(name)
        })
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty(), "nm finds no symbols in {}", library.display());
    names
}

const DEFINED: &str = if cfg!(target_os = "macos") { "-U" } else { "--defined-only" };

fn declared() -> BTreeSet<String> {
    [ACCEPTED, DRAFT, GILSTATE, DOCTOR, KEEP].into_iter().flat_map(prototypes).collect()
}

#[test]
fn exports_what_the_headers_declare() {
    let declared = declared();
    let exported = symbols(&library_folder().join(LIBRARY), DEFINED);
    let difference: Vec<_> = declared.symmetric_difference(&exported).collect();
    assert!(difference.is_empty(), "declared or exported, but not both: {difference:?}");
}

#[test]
fn needs_no_symbol_of_python() {
    let needed = symbols(&library_folder().join(LIBRARY), "-u");
    let of_python: Vec<_> =
        needed.iter().filter(|name| name.starts_with("Py") || name.starts_with("_Py")).collect();
    assert!(of_python.is_empty(), "the library cannot be loaded without Python: {of_python:?}");
}

// --- Headers -------------------------------------------------------------------------------------

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// A file that includes a header and names every function of it.
fn user_of(header: &str) -> String {
    let uses: String = prototypes(header)
        .iter()
        // Under the limited API the draft's names are macros, and not declared twice.
        .map(|name| format!("    (void)&{name};\n"))
        .collect();
    format!("#include \"{header}\"\nvoid use(void);\nvoid use(void)\n{{\n{uses}}}\n")
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn headers_compile_without_warnings() {
    let folder = output_folder("headers");
    let pythons = pythons();
    let has_cxx = compiler(true).is_some();
    if !has_cxx {
        eprintln!("skipped: C++, as there is no compiler (Debian and Ubuntu: package `g++`)");
    }
    let mut cases = Vec::new();
    for header in [ACCEPTED, DRAFT, GILSTATE, DOCTOR, KEEP] {
        let c = write(&folder, &format!("{header}.c"), &user_of(header));
        let cxx = write(&folder, &format!("{header}.cc"), &user_of(header));
        let languages: &[_] = &[("-std=c99", &c), ("-std=c11", &c), ("-std=c++17", &cxx)];
        for (standard, file) in &languages[..if has_cxx { 3 } else { 2 }] {
            for python in &pythons {
                for limited in [false, true] {
                    cases.push((*standard, (*file).clone(), python.clone(), limited));
                }
            }
        }
    }
    for_all(cases, |(standard, file, python, limited)| {
        let cxx = standard.contains("++");
        let mut command = compiler(cxx).ok_or("the compiler is gone")?;
        command.arg(standard).args(WARNINGS).arg("-fsyntax-only");
        if !cxx {
            command.arg("-Wstrict-prototypes");
        }
        if limited {
            command.arg("-DPy_LIMITED_API=0x03090000");
        }
        command.arg("-I").arg(root().join("include")).args(&python.include_flags).arg(file);
        checked(&mut command).map(drop)
    });
}

/// What it does is in `c_tests/accepted/cxx.cc`.
#[test]
fn cxx_header_compiles_without_warnings() {
    let source = "#include \"pep788.hpp\"\n\
        bool use(const pep788::guard &guard, const pep788::view &view);\n\
        bool use(const pep788::guard &guard, const pep788::view &view)\n\
        { return pep788::attach{guard} && pep788::attach{view} && view.lock(); }\n";
    let source = write(&output_folder("cxx"), "use.cc", source);
    let mut compilers = Vec::new();
    for name in ["g++", "clang++"] {
        if Command::new(name).arg("--version").output().is_ok() {
            compilers.push(name);
        } else {
            eprintln!("skipped: {name}, which is not there (Debian and Ubuntu: g++, clang)");
        }
    }
    let mut cases = Vec::new();
    for python in pythons() {
        for compiler in &compilers {
            for limited in [false, true] {
                cases.push((python.clone(), *compiler, limited));
            }
        }
    }
    for_all(cases, |(python, compiler, limited)| {
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-fno-exceptions", "-fno-rtti", "-Wshadow", "-fsyntax-only"]);
        if limited {
            command.arg("-DPy_LIMITED_API=0x03090000");
        }
        command.args(WARNINGS).arg("-I").arg(root().join("include"));
        checked(command.args(&python.include_flags).arg(&source)).map(drop)
    });
}

#[test]
fn one_dialect_per_file() {
    let folder = output_folder("both");
    let python = &pythons()[0];
    for (name, first, second) in [("a.c", ACCEPTED, DRAFT), ("b.c", DRAFT, ACCEPTED)] {
        let text = format!("#include \"{first}\"\n#include \"{second}\"\n");
        let mut command = c_compiler();
        command.arg("-fsyntax-only").arg("-I").arg(root().join("include"));
        command.args(&python.include_flags).arg(write(&folder, name, &text));
        let complaint = checked(&mut command).expect_err("both dialects in one file compile");
        assert!(complaint.contains("one dialect per file"), "{complaint}");
    }
}

#[test]
fn headers_may_be_included_twice() {
    let folder = output_folder("twice");
    let python = &pythons()[0];
    for header in [ACCEPTED, DRAFT, GILSTATE, DOCTOR, KEEP] {
        let text = format!("#include \"{header}\"\n#include \"{header}\"\nint unused;\n");
        let mut command = c_compiler();
        command.args(WARNINGS).arg("-fsyntax-only").arg("-I").arg(root().join("include"));
        command.args(&python.include_flags).arg(write(&folder, &format!("{header}.c"), &text));
        checked(&mut command).unwrap();
    }
}

// --- Users ---------------------------------------------------------------------------------------

/// The blocks of a Markdown text that are fenced as this language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    let mut wanted = false;
    for line in markdown.lines() {
        match &mut block {
            None => {
                if let Some(fence) = line.strip_prefix("```") {
                    wanted = fence == language;
                    block = Some(String::new());
                }
            }
            Some(_) if line.starts_with("```") => blocks.extend(block.take().filter(|_| wanted)),
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    assert!(block.is_none(), "a block does not end");
    blocks
}

/// C and C++, here; `make docs-test` does the languages that need packages from elsewhere.
fn code_compiles_and_runs(document: &str, languages: &[&str], pythons: &[Arc<Python>]) {
    let folder = output_folder(&document.replace('/', "-"));
    let library = library_folder();
    let markdown = std::fs::read_to_string(root().join(document)).unwrap();
    let mut cases = Vec::new();
    for language in languages {
        if *language == "cpp" && compiler(true).is_none() {
            eprintln!("skipped: C++, as there is no compiler (Debian and Ubuntu: package `g++`)");
            continue;
        }
        let blocks = blocks(&markdown, language);
        assert!(!blocks.is_empty(), "{document} has no block of {language}");
        for python in pythons {
            for block in &blocks {
                let name = format!("{:x}-{}.{language}", python.hexversion, cases.len());
                cases.push((python.clone(), write(&folder, &name, block)));
            }
        }
    }
    for_all(cases, |(python, source)| {
        let is_program = std::fs::read_to_string(&source).unwrap().contains("int main(");
        let cxx = source.extension().is_some_and(|extension| extension == "cpp");
        let product = source.with_extension("out");
        let mut command = compiler(cxx).ok_or("the compiler is gone")?;
        if cxx {
            command.arg("-std=c++17");
        }
        command.args(["-Wall", "-Wextra", "-Werror", "-pthread"]).arg(&source);
        command.arg("-o").arg(&product).arg("-I").arg(root().join("include"));
        command.args(&python.include_flags);
        command.arg("-L").arg(&library).arg(format!("-Wl,-rpath,{}", library.display()));
        command.arg("-lpep788");
        if !is_program {
            return checked(command.args(["-shared", "-fPIC"])).map(drop);
        }
        checked(command.args(&python.link_flags))?;
        let mut command = Command::new("timeout");
        checked(command.arg("60").arg(&product).env("PYTHONHOME", &python.home)).map(drop)
    });
}

#[test]
fn code_in_the_readme_runs() {
    code_compiles_and_runs("README.md", &["c"], &pythons());
}

#[test]
fn code_in_draft_runs() {
    code_compiles_and_runs("docs/draft.md", &["c"], &pythons());
}

#[test]
fn code_in_migrating_compiles() {
    let pythons = pythons();
    let ends = [pythons[0].clone(), pythons[pythons.len() - 1].clone()];
    code_compiles_and_runs("docs/migrating.md", &["c", "cpp"], &ends);
}

/// `tests/rust_api`, which carries the crate in itself, in every Python.
#[test]
fn rust_api_keeps_its_promises() {
    let folder = output_folder("rust_api");
    let mut command = Command::new(env!("CARGO"));
    command.arg("build").arg("--manifest-path").arg(root().join("tests/rust_api/Cargo.toml"));
    checked(command.env("CARGO_TARGET_DIR", &folder)).unwrap();
    let module = folder.join("debug").join(LIBRARY.replace("pep788", "rust_api"));
    // Without the feature `c-api` the crate adds nothing to what the extension exports.
    let exported = symbols(&module, DEFINED);
    let too_many: Vec<_> = exported.intersection(&declared()).cloned().collect();
    assert!(too_many.is_empty() && exported.contains("begin"), "{too_many:?}");
    let script = "import atexit, ctypes, sys\n\
        library = ctypes.PyDLL(sys.argv[1])\n\
        library.begin()\n\
        atexit.register(library.exiting)\n";
    for_all(pythons(), |python| {
        let mut command = Command::new("timeout");
        command.args(["60"]).arg(&python.executable).args(["-c", script]).arg(&module);
        let done = checked(&mut command)?;
        let said = String::from_utf8_lossy(&done.stdout);
        if said == "guarded\nrefused\n" {
            Ok(())
        } else {
            Err(format!("{command:?} printed {said:?}"))
        }
    });
}

/// An extension that was linked without the library has its functions from `LD_PRELOAD`.
#[test]
#[cfg(target_os = "linux")]
fn preloaded_for_an_extension() {
    let folder = output_folder("preload");
    for_all(pythons(), |python| {
        if python.hexversion >= 0x030F_0000 {
            return Ok(()); // has them itself
        }
        let module = folder.join(format!("{:x}", python.hexversion));
        let modules = module.join(if python.free_threaded { "t" } else { "gil" });
        std::fs::create_dir_all(&modules).unwrap();
        let product = modules.join(format!("worker{}", python.extension_suffix));
        let mut command = c_compiler();
        command.args(["-shared", "-fPIC", "-pthread"]).arg(root().join("c_tests/modules/worker.c"));
        command.arg("-I").arg(root().join("include")).args(&python.include_flags);
        checked(command.arg("-o").arg(&product))?;
        let script = root().join("c_tests/scripts/sys_exit.py");
        let run = |preload: Option<PathBuf>| {
            let mut command = Command::new("timeout");
            command.arg("60").arg(&python.executable).arg(&script).env("PYTHONPATH", &modules);
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            command.envs(preload.map(|library| ("LD_PRELOAD", library)));
            command.output().map_err(|error| format!("{command:?}: {error}"))
        };
        let with = run(Some(library_folder().join(LIBRARY)))?;
        if with.status.code() != Some(3) || with.stdout != b"calls: 50\n" {
            return Err(format!("{}: {with:?}", python.executable.display()));
        }
        let without = run(None)?;
        let complaint = String::from_utf8_lossy(&without.stderr);
        if !complaint.contains("undefined symbol: Py") {
            return Err(format!("{}: was linked with it: {complaint}", product.display()));
        }
        Ok(())
    });
}

// --- The repository ------------------------------------------------------------------------------

/// Nothing that is to be committed knows the machine it was written on.
#[test]
fn names_no_place_of_one_machine() {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let listed = match listed {
        Ok(done) if done.status.success() && root().join(".git").exists() => done.stdout,
        _ => return eprintln!("skipped: this is not a git checkout"),
    };
    // In parts, so that this file is not found itself.
    let places = [["/ro", "ot/"], ["/wo", "rk/"]].map(|parts| parts.concat());
    let begins_there = |line: &str, place: &str| {
        let before = |index: usize| line[..index].chars().next_back();
        let part_of_more = |c: char| c.is_alphanumeric() || "._-}>$".contains(c);
        line.match_indices(place).any(|(index, _)| !before(index).is_some_and(part_of_more))
    };
    let mut found = Vec::new();
    for name in String::from_utf8(listed).unwrap().split_terminator('\0') {
        let Ok(text) = std::fs::read_to_string(root().join(name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| begins_there(line, place)) {
                found.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "absolute paths of one machine:\n{}", found.join("\n"));
}

/// The Markdown files, and what they link to within the repository: the file, and what is behind `#`.
fn links() -> Vec<(PathBuf, PathBuf, Option<String>)> {
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        documents.extend([path.clone(), path.join("README.md")]);
    }
    documents.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|f| f.unwrap().path()));
    documents.retain(|path| path.is_file() && path.extension().is_some_and(|kind| kind == "md"));
    let mut links = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        // Every other part is fenced code.
        for prose in text.split("\n```").step_by(2) {
            for (_, rest) in prose.match_indices("](").map(|(at, _)| prose.split_at(at + 2)) {
                let target = rest.split(')').next().unwrap();
                if target.contains("://") {
                    continue;
                }
                let (path, anchor) = match target.split_once('#') {
                    Some((path, anchor)) => (path, Some(anchor.to_owned())),
                    None => (target, None),
                };
                let file = match path {
                    "" => document.clone(),
                    _ => document.parent().unwrap().join(path),
                };
                links.push((document.clone(), file, anchor));
            }
        }
    }
    links
}

/// The names under which Markdown's headings are linked to.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let headings = markdown.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let links = links();
    assert!(links.len() > 30, "only {} links are found", links.len());
    let leads_somewhere = |file: &Path, anchor: &Option<String>| match anchor {
        None => file.exists(),
        Some(anchor) => {
            std::fs::read_to_string(file).is_ok_and(|text| anchors(&text).contains(anchor))
        }
    };
    let dead: Vec<_> =
        links.iter().filter(|(_, file, anchor)| !leads_somewhere(file, anchor)).collect();
    assert!(dead.is_empty(), "links that lead nowhere (from, to, heading): {dead:#?}");
}

/// The hosted jobs are the gate's steps, which make has targets for.
#[test]
fn hosted_jobs_run_the_gate() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let done = checked(Command::new(root().join(".ci/run")).arg("--list")).unwrap();
    let listed = String::from_utf8(done.stdout).unwrap();
    let steps: Vec<&str> = listed.split('"').skip(1).step_by(2).collect();
    assert!(steps.contains(&"check"), ".ci/run --list: {listed}");
    let makefile = read("Makefile");
    for step in &steps {
        assert!(makefile.contains(&format!("\n{step}:")), "make has no target `{step}`");
    }

    let workflow = read(".github/workflows/ci.yml");
    let runs: Vec<&str> = workflow
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once(".ci/run ").map(|(_, words)| words))
        .collect();
    // A job for each step, by the list itself.
    for part in ["--list", "${{ matrix.step }}"] {
        assert!(runs.iter().any(|words| words.starts_with(part)), "no job runs .ci/run {part}");
    }
    assert!(workflow.contains("step: ${{ fromJSON(needs.steps.outputs.list) }}\n"));
    for words in runs.iter().filter(|words| !words.starts_with("--list") && !words.contains("${{"))
    {
        for step in words.split_whitespace() {
            assert!(
                steps.contains(&step),
                "the workflow runs `.ci/run {step}`, which has no such step"
            );
        }
    }
}
