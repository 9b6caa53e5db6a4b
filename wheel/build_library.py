"""Builds the library with cargo and puts it into the wheel, with its headers and what CMake and
pkg-config need. A hook of hatchling; pyproject.toml names it."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Wheels have no symbolic links, so the library has one name.
SHARED = "libpep788.so"
WINDOWS = "x86_64-pc-windows-gnu"


class BuildLibrary(BuildHookInterface):
    def initialize(self, version, build_data):
        root = Path(self.root)
        built = Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "wheel"
        if shutil.which("cargo") is None:
            raise SystemExit("cargo is missing: install Rust (https://rustup.rs)")
        # For another C library or processor than this machine's, as `x86_64-unknown-linux-gnu.2.17`: by zig, which has them
        # all. `wheel/cross` says which, and with which binary tools.
        target = os.environ.get("PEP788_ZIG_TARGET", "")
        cargo = ["cargo-zigbuild", "rustc", "--target", target] if target else ["cargo", "rustc"]
        # Or for Windows, by mingw.
        for_windows = os.environ.get("PEP788_WINDOWS") == "1"
        if for_windows:
            target, cargo = WINDOWS, ["cargo", "rustc", "--target", WINDOWS]
        made = built / target.partition(".")[0] / "release"
        command = [*cargo, "--release", "--lib", "--locked", "--target-dir", str(built), "--crate-type"]

        stage = built / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        shutil.copytree(root / "include", stage / "include")
        (stage / "lib/pkgconfig").mkdir(parents=True)
        (stage / "lib/cmake/pep788").mkdir(parents=True)
        # The static library, then the shared one, as `make install` does (and says why one at a time).
        # No other Rust code is in it (src/lib.rs).
        for_c = ["--", "--cfg", "pep788_c_library"]
        subprocess.run([*command, "staticlib", "--features", "vendored", *for_c], cwd=root, check=True)
        binutils = os.environ.get("PEP788_BINUTILS")
        tools = {tool.upper(): binutils + tool for tool in ("ld", "nm", "ar", "objcopy", "objdump", "strip")} if binutils else {}
        subprocess.run([root / "install/prelink", made / "libpep788.a", stage / "lib/libpep788.a"], check=True,
                       env={**os.environ, **tools})
        if for_windows:
            subprocess.run([*command, "cdylib", *for_c], cwd=root, check=True)
            self.place_for_windows(made, stage / "lib")
        else:
            subprocess.run([*command, "cdylib", *for_c], cwd=root, env={**os.environ, "PEP788_SONAME": SHARED}, check=True)
            shutil.copy(made / SHARED, stage / "lib")
        # Both find the rest from where they are themselves.
        for package in ("pep788.pc", "pep788-static.pc")[:1 if for_windows else 2]:
            self.fill_in(package, stage / "lib/pkgconfig", "${pcfiledir}/../..", "${prefix}")
        # By an entry point of that name, builds find the folder in which these are; it has to be a package then.
        for folder in "lib", "lib/pkgconfig":
            (stage / folder / "__init__.py").touch()
        # What `from pep788 cimport *` looks for where there is a package of that name.
        shutil.copy(root / "include/pep788.pxd", stage / "__init__.pxd")
        # What CMake reads is for the shared libraries of ELF.
        for script in ("pep788-config.cmake", "pep788-config-version.cmake") if not for_windows else ():
            self.fill_in(script, stage / "lib/cmake/pep788", "", "")

        build_data["force_include"].update(
            (str(path), "pep788/%s" % path.relative_to(stage))
            for path in stage.rglob("*") if path.is_file())
        # Python looks for it beside the packages.
        build_data["force_include"][str(root / "wheel/pep788.pth")] = "pep788.pth"
        build_data["pure_python"] = False
        # No Python is linked, so it is for any. `auditwheel` finds out which systems it is for.
        platform = "win_amd64" if for_windows else os.environ.get("PEP788_ZIG_PLATFORM") or sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = "py3-none-" + platform

    def place_for_windows(self, made, folder):
        """The DLL, and an import library that both compilers take: that of Microsoft, and mingw's."""
        shutil.copy(made / "pep788.dll", folder)
        names = subprocess.run(["x86_64-w64-mingw32-nm", "-g", "--defined-only", made / "libpep788.dll.a"],
                               stdout=subprocess.PIPE, text=True, check=True).stdout
        functions = sorted(set(re.findall(r"^[0-9a-f]+ T (\w+)$", names, re.M)))
        definitions = folder / "pep788.def"
        definitions.write_text("LIBRARY pep788.dll\nEXPORTS\n" + "".join("    %s\n" % name for name in functions))
        dlltool = os.environ.get("PEP788_DLLTOOL", "llvm-dlltool").split()
        subprocess.run([*dlltool, "-m", "i386:x86-64", "-d", definitions, "-l", folder / "pep788.lib"], check=True)

    def fill_in(self, name, folder, prefix, within):
        text = (Path(self.root) / "install" / (name + ".in")).read_text()
        values = {
            "PREFIX": prefix, "LIBDIR": within + "/lib", "INCLUDEDIR": within + "/include",
            "SHARED": SHARED, "SONAME": SHARED, "VERSION": self.metadata.version,
        }
        for key, value in values.items():
            text = text.replace("@%s@" % key, value)
        (folder / name).write_text(text)
