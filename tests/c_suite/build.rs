//! Compiling the programs and extension modules, each for one Python and engine.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use crate::process::Invocation;
use crate::python::{Engine, Subject};
use crate::sanitize::Tool;
use crate::scenario::{self, Folder, Scenario, SourceFile};
use crate::windows;
use crate::Places;

pub const IS_MACOS: bool = cfg!(target_os = "macos");
/// On macOS: what a module or a program does not define, somebody else does once it is loaded.
const UNDEFINED_AT_LOAD: &str = "-Wl,-undefined,dynamic_lookup";

pub fn library_name() -> &'static str {
    if windows::is_meant() {
        "pep788.dll"
    } else if IS_MACOS {
        "libpep788.dylib"
    } else {
        "libpep788.so"
    }
}

/// What is to be built: a program under a subject, or for a script, the extension modules.
#[derive(Clone)]
pub struct Target {
    pub subject: Arc<Subject>,
    pub file: Arc<SourceFile>,
}

impl Target {
    /// `<subject>/accepted/guard`, or `<subject>/modules`.
    fn key(&self) -> PathBuf {
        let within = match self.file.folder {
            Folder::Scripts => "modules",
            _ => &self.file.name,
        };
        Path::new(&self.subject.label).join(within)
    }
}

/// Where a target's product is, or why it could not be made.
type Built = Result<PathBuf, String>;

pub struct Builder {
    places: Arc<Places>,
    pub tool: Option<Tool>,
    c: OnceLock<Option<cc::Tool>>,
    cxx: OnceLock<Option<cc::Tool>>,
    built: Mutex<HashMap<PathBuf, Built>>,
}

impl Builder {
    pub fn new(places: Arc<Places>, tool: Option<Tool>) -> Builder {
        Builder { c: OnceLock::new(), cxx: OnceLock::new(), built: Mutex::default(), places, tool }
    }

    pub fn c_compiler(&self) -> Option<&cc::Tool> {
        self.c.get_or_init(|| compiler(&self.places.output, false)).as_ref()
    }

    /// Only some files want it, so it is looked for when one does.
    pub fn cxx_compiler(&self) -> Option<&cc::Tool> {
        self.cxx.get_or_init(|| compiler(&self.places.output, true)).as_ref()
    }

    /// Builds everything that is not up to date, on all cores.
    pub fn build_all(&self, targets: impl Iterator<Item = Target>) {
        let distinct: BTreeMap<PathBuf, Target> =
            targets.map(|target| (target.key(), target)).collect();
        eprintln!(
            "c_suite: building {} targets in {}",
            distinct.len(),
            self.places.output.display()
        );
        let queue = Mutex::new(distinct.into_iter());
        let work = || loop {
            let next = queue.lock().unwrap().next();
            let Some((key, target)) = next else { break };
            let built = self.build(&target).map_err(|error| {
                eprintln!("c_suite: {} cannot be built: {error}", key.display());
                "cannot be built, see above".to_owned()
            });
            self.built.lock().unwrap().insert(key, built);
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
    }

    /// How to run a scenario of a target that `build_all` was given.
    pub fn command(&self, target: &Target, scenario: &Scenario) -> Result<Invocation, String> {
        let built = self.built.lock().unwrap()[&target.key()].clone()?;
        let mut environment = Vec::new();
        let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
        if target.subject.engine == Engine::Backport {
            set("PEP788_ENGINE", "backport".to_owned());
        }
        if target.file.folder == Folder::Preload {
            let variable = if IS_MACOS { "DYLD_INSERT_LIBRARIES" } else { "LD_PRELOAD" };
            set(variable, self.places.library_file().display().to_string());
        }
        let (program, arguments) = match (&target.subject.python, target.file.folder) {
            (Some(python), Folder::Scripts) => {
                let mut path = built.display().to_string();
                if matches!(target.subject.engine, Engine::Handover | Engine::Backport) {
                    let first = self.places.scenarios.join("modules/library_first");
                    path = format!("{path}:{}", first.display());
                }
                set("PYTHONPATH", path);
                (python.executable.clone(), vec![target.file.path.display().to_string()])
            }
            (Some(python), _) => {
                set("PYTHONHOME", python.home.clone());
                (built.clone(), vec![scenario.name.clone()])
            }
            (None, _) => (built.clone(), vec![scenario.name.clone()]),
        };
        environment.extend(scenario.environment.iter().cloned());
        let folder = self.places.output.join(target.key()).with_extension("run");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let output = folder.join(&scenario.name);
        let mut invocation = Invocation { program, arguments, environment, output };
        if let (Some(tool), Some(compiler)) = (self.tool, self.c_compiler()) {
            tool.wrap(&mut invocation, target.file.folder, compiler.path())?;
        }
        Ok(invocation)
    }

    fn build(&self, target: &Target) -> Built {
        match target.file.folder {
            Folder::Scripts => self.build_modules(target),
            _ => self.build_program(target),
        }
    }

    fn build_program(&self, target: &Target) -> Built {
        let mut product = self.places.output.join(target.key());
        if windows::is_meant() {
            product.set_extension("exe");
        }
        let sources = [&target.file.path].into_iter().chain(&target.file.sources);
        let harness = self.places.scenarios.join("harness.c");
        let mut link = Vec::new();
        match target.file.folder {
            Folder::Preload if IS_MACOS => link.push(UNDEFINED_AT_LOAD.to_owned()),
            Folder::Preload => link.push("-Wl,--unresolved-symbols=ignore-all".to_owned()),
            _ => link.extend(self.library_flags(target)),
        }
        if let Some(python) = &target.subject.python {
            link.extend(python.link_flags.iter().cloned());
        }
        self.compile(target, sources.chain([&harness]), &product, &[], &link)?;
        self.check_list(target, &product)?;
        Ok(product)
    }

    /// The program knows no scenario that its text does not declare: such a one would never be run.
    fn check_list(&self, target: &Target, program: &Path) -> Result<(), String> {
        let output = windows::command(program).output().map_err(|error| error.to_string())?;
        let known = String::from_utf8_lossy(&output.stdout).into_owned();
        let declared = |name: &str| target.file.scenarios.iter().any(|s| s.name == name);
        match known.lines().find(|name| !declared(name)) {
            Some(name) => Err(format!("scenario `{name}` does not stand at the start of a line")),
            None => Ok(()),
        }
    }

    /// The folder with the modules of `c_tests/modules` built for the target's Python.
    fn build_modules(&self, target: &Target) -> Built {
        let python = target.subject.python.as_ref().expect("scripts are run by a Python");
        let folder = self.places.output.join(target.key());
        let sources = std::fs::read_dir(self.places.scenarios.join("modules"))
            .map_err(|error| error.to_string())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "c" || e == "cc"));
        for source in sources {
            let text = std::fs::read_to_string(&source).map_err(|error| error.to_string())?;
            if scenario::wants_library(&text) && !target.needs_library() {
                continue;
            }
            let stem = source.file_stem().unwrap().to_string_lossy();
            let product = folder.join(format!("{stem}{}", python.extension_suffix));
            let mut link: Vec<String> = self.library_flags(target);
            if windows::is_meant() {
                // No name may be left undefined there.
                link.extend(python.link_flags.iter().cloned());
            }
            let flags: &[_] =
                if IS_MACOS { &["-bundle", UNDEFINED_AT_LOAD] } else { &["-shared", "-fPIC"] };
            self.compile(target, [&source].into_iter(), &product, flags, &link)?;
        }
        if windows::is_meant() && target.needs_library() {
            // A module finds a DLL in its own folder.
            std::fs::copy(self.places.library_file(), folder.join(library_name()))
                .map_err(|error| error.to_string())?;
        }
        Ok(folder)
    }

    /// Links the library, before the Python: on 3.15 both have the names of the accepted API.
    fn library_flags(&self, target: &Target) -> Vec<String> {
        if windows::is_meant() {
            return windows::link_flags(
                Some(&*self.places.library).filter(|_| target.needs_library()),
            );
        }
        if !target.needs_library() {
            return Vec::new();
        }
        let folder = self.places.library.display();
        vec![format!("-L{folder}"), format!("-Wl,-rpath,{folder}"), "-lpep788".to_owned()]
    }

    /// Compiles and links, unless the product is newer than all it is made from and was made by
    /// the same command.
    fn compile<'a>(
        &self,
        target: &Target,
        sources: impl Iterator<Item = &'a PathBuf>,
        product: &Path,
        flags: &[&str],
        link: &[String],
    ) -> Result<(), String> {
        let sources: Vec<&PathBuf> = sources.collect();
        let is_cxx = |path: &&&PathBuf| path.extension().is_some_and(|e| e == "cc");
        let (cxx, c): (Vec<&PathBuf>, Vec<&PathBuf>) = (
            sources.iter().filter(is_cxx).copied().collect(),
            sources.iter().filter(|p| !is_cxx(p)).copied().collect(),
        );
        // A program with C++ in it is linked by the C++ compiler, its C parts compiled before.
        let mut objects = Vec::new();
        let mut commands = Vec::new();
        if !cxx.is_empty() {
            for source in &c {
                let object = product
                    .with_extension(format!("{}.o", source.file_stem().unwrap().to_string_lossy()));
                let mut command = self.compiler_command(target, false)?;
                command.args(flags).arg("-c").arg(source).arg("-o").arg(&object);
                commands.push(command);
                objects.push(object);
            }
        }
        let mut command = self.compiler_command(target, !cxx.is_empty())?;
        command.args(flags);
        command.args(if cxx.is_empty() { &c } else { &cxx });
        command.args(&objects).arg("-o").arg(product).args(link);
        commands.push(command);

        let stamp = product.with_extension("command");
        let line: String = commands.iter().map(|command| shown(command) + "\n").collect();
        if std::fs::read_to_string(&stamp).is_ok_and(|previous| previous == line)
            && self.is_current(product, &sources)
        {
            return Ok(());
        }
        let _ = std::fs::remove_file(&stamp);
        std::fs::create_dir_all(product.parent().unwrap()).map_err(|error| error.to_string())?;
        for command in &mut commands {
            let output =
                command.output().map_err(|error| format!("{}: {error}", shown(command)))?;
            if !output.status.success() {
                let complaint = String::from_utf8_lossy(&output.stderr);
                return Err(format!("\n{}\n{complaint}", shown(command)));
            }
        }
        std::fs::write(&stamp, line).map_err(|error| error.to_string())
    }

    fn compiler_command(&self, target: &Target, cxx: bool) -> Result<Command, String> {
        let tool = if cxx { self.cxx_compiler() } else { self.c_compiler() };
        let tool = tool.ok_or("there is no C++ compiler")?;
        let mut command = tool.to_command();
        command.arg(if cxx { "-std=c++17" } else { "-std=c11" });
        // Some scenarios misuse functions; whether the result is looked at does not matter there.
        command
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-result", "-pthread", "-I"])
            .arg(&self.places.scenarios);
        command.args(self.tool.map_or(&[][..], Tool::compile_flags));
        if target.needs_library() {
            command.arg("-I").arg(&self.places.headers);
            command.arg("-DPEP788_FORCE");
        }
        match &target.subject.python {
            // Warnings in CPython's headers are not ours.
            Some(python) => command.args(python.include_flags.iter().map(|flag| {
                flag.strip_prefix("-I").map_or(flag.clone(), |folder| format!("-isystem{folder}"))
            })),
            None => command.arg("-DHARNESS_NO_PYTHON"),
        };
        Ok(command)
    }

    fn is_current(&self, product: &Path, sources: &[&PathBuf]) -> bool {
        let Some(made) = modified(product) else { return false };
        let headers = [&self.places.scenarios, &self.places.headers]
            .into_iter()
            .flat_map(std::fs::read_dir)
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "h"));
        sources
            .iter()
            .map(|source| source.to_path_buf())
            .chain(headers)
            .all(|input| modified(&input).is_some_and(|changed| changed <= made))
    }
}

/// As one would type it; the environment is left out, it would only make everything out of date.
fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// The compiler that `cc` would use in a build script, if it can be run.
fn compiler(output: &Path, cxx: bool) -> Option<cc::Tool> {
    let system = if IS_MACOS { "apple-darwin" } else { "unknown-linux-gnu" };
    let host = format!("{}-{system}", std::env::consts::ARCH);
    let target = if windows::is_meant() { windows::TARGET } else { &host };
    let tool = cc::Build::new()
        .cpp(cxx)
        .cargo_metadata(false)
        .target(target)
        .host(&host)
        .opt_level(1)
        .debug(true)
        .out_dir(output)
        .try_get_compiler()
        .ok()?;
    let runs =
        tool.to_command().arg("--version").output().is_ok_and(|output| output.status.success());
    runs.then_some(tool)
}
