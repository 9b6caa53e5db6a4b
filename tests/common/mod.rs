//! What tests of the built library share: where it is, where to write, how to compile.

#![allow(dead_code)] // no test needs all of it

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const LIBRARY: &str =
    if cfg!(target_os = "macos") { "libpep788.dylib" } else { "libpep788.so" };

/// What `python` wants to know of this test.
pub struct Places {
    /// `c_tests/`
    pub scenarios: PathBuf,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the library: `PEP788_LIB_DIR`, or where cargo builds it for this test.
pub fn library_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("PEP788_LIB_DIR").filter(|folder| !folder.is_empty()) {
        return std::path::absolute(root().join(folder)).unwrap();
    }
    // target/<profile>/deps/<test>-<hash>. An earlier `cargo build` may have left one in <profile>.
    let executable = std::env::current_exe().unwrap();
    let deps = executable.parent().unwrap();
    [deps, deps.parent().unwrap()]
        .into_iter()
        .filter_map(|folder| {
            let built = folder.join(LIBRARY).metadata().and_then(|data| data.modified()).ok()?;
            Some((built, folder.to_owned()))
        })
        .max()
        .unwrap_or_else(|| panic!("there is no {LIBRARY} in {}", deps.display()))
        .1
}

/// A folder of this test's own.
pub fn output_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A compiler of C or C++, as `cc` would find it for a build script.
pub fn compiler(cxx: bool) -> Option<Command> {
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-gnu" };
    let triple = format!("{}-{system}", std::env::consts::ARCH);
    let tool = cc::Build::new()
        .cpp(cxx)
        .cargo_metadata(false)
        .target(&triple)
        .host(&triple)
        .opt_level(0)
        .out_dir(output_folder("cc"))
        .try_get_compiler()
        .ok()?;
    let runs = tool.to_command().arg("--version").output().is_ok_and(|done| done.status.success());
    runs.then(|| tool.to_command())
}

/// Runs it; the error is what it printed.
pub fn checked(command: &mut Command) -> Result<Output, String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if done.status.success() {
        Ok(done)
    } else {
        Err(format!("{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr)))
    }
}
