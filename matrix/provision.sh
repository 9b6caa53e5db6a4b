# Brings in the Pythons that are not there. Sourced by ./run.
#
# Everything is below $CACHE, and made only once: what is complete has a stamp with the recipe it was
# made by, what is not is thrown away and made again.
#
#   roots/SUITE     a Debian of its own: debootstrap's, plus the packages below
#   pythons/        those for Windows, see windows.sh
#   sources/        upstream's tarballs, as Debian has them
#   stamps/         what is complete
#   logs/           what apt, debootstrap and make said
#   results/NAME/   what the C suite built and printed for a Python

# What every root has, to compile the C tests and to ask gdb about a hang.
TOOLS="gcc g++ libc6-dev gdb-minimal python3-gi"
# What Debian's libpython*.a, which has many modules in it, wants linked.
STATIC_LIBRARIES="libexpat1-dev libzstd-dev zlib1g-dev"
# For other processors there are compilers for them, on x86-64, and Debian's libraries; and in the roots of one suite what it takes
# to build the library, and the emulators. Stable suites: in unstable the architectures drift apart.
BUILD_SUITE=trixie
BUILD_TOOLS_FOREIGN="cargo libc6-dev qemu-user rustc"
# Sources are fetched and built in this root; these are what the modules that the scenarios import are made from.
BUILD_ROOT=bookworm
BUILD_TOOLS="make xz-utils libffi-dev musl-tools"

# An expired archive is an archive still: the signatures are checked all the same.
APT="apt-get -y -q -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 -o APT::Install-Recommends=false -o APT::Sandbox::User=root"

# Says why something cannot be had; the caller returns.
WHY=
refuse() {
    WHY=$*
    return 1
}

# logged NAME COMMAND...: its output goes to a log.
logged() {
    local log=$CACHE/logs/$1.log
    shift
    "$@" > "$log" 2>&1 < /dev/null ||
        refuse "failed, see $(shown "$log"): $(tail -n 3 "$log" | tr '\n' ' ')"
}

# is_made NAME RECIPE: whether it is there, made by that recipe.
is_made() {
    [ -e "$CACHE/stamps/$1" ] && [ "$(cat "$CACHE/stamps/$1")" = "$2" ]
}

made() {
    printf '%s\n' "$2" > "$CACHE/stamps/$1"
}

# What this machine needs to have for a root; installed where it is missing.
need_root_tools() {
    [ "$(id -u)" = 0 ] || { refuse "needs root, for a root folder (chroot)"; return; }
    command -v apt-get > /dev/null || { refuse "needs a Debian machine (there is no apt-get)"; return; }
    command -v debootstrap > /dev/null && return
    say "installing debootstrap"
    logged debootstrap-install sh -c "$APT install debootstrap || { $APT update && $APT install debootstrap; }" ||
        refuse "debootstrap is missing and could not be installed (apt install debootstrap): $WHY"
}

# processor ARCHITECTURE: what is called after a processor, by Debian's name for it: TRIPLE by compilers, TARGET by Rust, QEMU by
# the emulator, and FAMILY by root folders.
processor() {
    FAMILY=processors
    case $1 in
        arm64) TRIPLE=aarch64-linux-gnu TARGET=aarch64-unknown-linux-gnu QEMU=aarch64 FAMILY=aarch64 ;;
        i386) TRIPLE=i686-linux-gnu TARGET=i686-unknown-linux-gnu QEMU=i386 ;;
        armhf) TRIPLE=arm-linux-gnueabihf TARGET=armv7-unknown-linux-gnueabihf QEMU=arm ;;
        riscv64) TRIPLE=riscv64-linux-gnu TARGET=riscv64gc-unknown-linux-gnu QEMU=riscv64 ;;
        s390x) TRIPLE=s390x-linux-gnu TARGET=s390x-unknown-linux-gnu QEMU=s390x ;;
        ppc64el) TRIPLE=powerpc64le-linux-gnu TARGET=powerpc64le-unknown-linux-gnu QEMU=ppc64le ;;
        *) die "no processor \`$1\` in $(shown "$HERE/provision.sh")" ;;
    esac
}

# The packages that the list of Pythons wants from a suite, and the tools that go with them.
packages_of() {
    local packages="$TOOLS $STATIC_LIBRARIES"
    case $1 in
        "$ROOT_WINDOWS") packages=$TOOLS_WINDOWS ;;
        "$BUILD_ROOT") packages+=" $BUILD_TOOLS" ;;
        "$BUILD_SUITE"-*) packages=$BUILD_TOOLS_FOREIGN ;;
        *-*) packages=libc6-dev ;;
    esac
    local name kind suite package rest
    while read -r name kind suite package rest; do
        if [ "$kind" = debian ] && [ "$suite" = "$1" ]; then
            # The debug build brings its own headers and libraries.
            case $package in
                *-dbg) packages+=" $package ${package%-dbg}-dev" ;;
                *) packages+=" $package-dev" ;;
            esac
        fi
    done < <(wanted)
    tr ' ' '\n' <<< "$packages" | sort -u | paste -s -d ' '
}

# root SUITE: a Debian of that suite in $CACHE/roots, with the packages the list wants from it. One that
# is called SUITE-FAMILY is x86-64 itself too: see `foreign`.
root() {
    local suite=$1 folder=$CACHE/roots/$1 packages
    packages=$(packages_of "$suite")
    is_made "root-$suite" "$packages" && return
    need_root_tools || return
    if ! [ -e "$CACHE/stamps/root-$suite" ] && ! is_made "base-$suite" "$suite"; then
        say "fetching Debian $suite"
        rm -rf "$folder"
        # A machine's own apt may go through a proxy.
        eval "$(apt-config shell proxy Acquire::http::Proxy)"
        # shellcheck disable=SC2154
        logged "debootstrap-$suite" env ${proxy:+http_proxy="$proxy"} \
            debootstrap --variant=minbase "${suite%%-*}" "$folder" || return
        made "base-$suite" "$suite"
    fi
    say "installing in Debian $suite: $packages"
    logged "packages-$suite" "$HERE/inside" "$folder" sh -ec \
        "$APT update; $APT install $packages; apt-get clean; rm -rf /var/lib/apt/lists/*" || return
    made "root-$suite" "$packages"
}

# tarball SUITE PACKAGE: upstream's source in $CACHE/sources/SUITE-PACKAGE/; its name is in $TARBALL.
# apt checks it against the suite's signed index.
tarball() {
    local folder=$CACHE/sources/$1-$2 mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! is_made "source-$1-$2" "$2"; then
        root "$BUILD_ROOT" || return
        say "fetching the source of $2 from $1"
        mirror=$(awk '$1 == "deb" { print $2; exit }' "$CACHE/roots/$BUILD_ROOT/etc/apt/sources.list")
        rm -rf "$folder"
        mkdir -p "$folder/lists/partial"
        echo "deb-src [signed-by=$keys] $mirror $1 main" > "$folder/sources.list"
        local private="-o Dir::Etc::sourcelist=$folder/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$folder/lists"
        logged "source-$1-$2" "$HERE/inside" "$CACHE/roots/$BUILD_ROOT" sh -ec \
            "cd $folder; $APT $private update; $APT $private source --tar-only --download-only $2" || return
        rm -rf "$folder/lists" "$folder/sources.list"
        made "source-$1-$2" "$2"
    fi
    TARBALL=$(find "$folder" -name '*.orig.tar.*' ! -name '*.asc' | head -n 1)
    [ -n "$TARBALL" ] || refuse "apt fetched no tarball of $2 from $1"
}

# source_python NAME SUITE PACKAGE FLAGS...: built in the build root, installed there in /opt/NAME.
source_python() {
    local name=$1 recipe=$* folder=$CACHE/roots/$BUILD_ROOT
    root "$BUILD_ROOT" || return
    is_made "python-$name" "$recipe" && return
    tarball "$2" "$3" || return
    shift 3
    say "building $name from $(basename "$TARBALL") (two or three minutes)"
    rm -rf "$folder/opt/$name" "$folder/build"
    mkdir -p "$folder/build"
    logged "build-$name" "$HERE/inside" "$folder" sh -ec "
        cd /build
        tar -x --strip-components=1 -f $TARBALL
        ./configure -q --prefix=/opt/$name --with-ensurepip=no --disable-test-modules \
            LDFLAGS=-Wl,-rpath,/opt/$name/lib $*
        make -s -j$(nproc)
        make -s install" || return
    rm -rf "$folder/build"
    made "python-$name" "$recipe"
}

# library_musl: the library of the wheel for musl, in $CACHE/results/library-musl, and zig, in $ZIG.
library_musl() {
    local folder=$CACHE/results/library-musl wheel
    [ "$(uname -m)" = x86_64 ] || { refuse "needs x86-64"; return; }
    if ! [ -e /lib/ld-musl-x86_64.so.1 ]; then
        need_root_tools || return
        say "installing musl"
        logged musl-install sh -c "$APT install musl || { $APT update && $APT install musl; }" || return
    fi
    if ! [ -d "$(rustc --print target-libdir --target x86_64-unknown-linux-musl)" ]; then
        say "fetching Rust's library for musl"
        logged rust-musl rustup target add x86_64-unknown-linux-musl || return
    fi
    say "building the library for musl"
    rm -rf "$folder"
    logged library-musl "$PROJECT/wheel/cross" --tools "$CACHE/tools" --unused x86_64-musllinux || return
    wheel=$(sed -n 's/^ok  \([^,]*\.whl\),.*/\1/p' "$CACHE/logs/library-musl.log")
    python3 -m zipfile -e "${CARGO_TARGET_DIR:-$PROJECT/target}/wheels/$wheel" "$folder/wheel"
    install -m 755 "$folder/wheel/pep788/lib/libpep788.so" "$folder"
    ZIG=$(echo "$CACHE"/tools/lib/python3*/site-packages/ziglang/zig)
}

# libffi_musl: the kernel's headers and libffi for musl, in the build root in /opt/musl. The source is that root's
# suite's: later ones have no configure.
libffi_musl() {
    local folder=$CACHE/roots/$BUILD_ROOT recipe
    recipe=$(cksum < "$HERE/musl-cc")
    root "$BUILD_ROOT" || return
    is_made libffi-musl "$recipe" && return
    tarball "$BUILD_ROOT" libffi || return
    say "building libffi for musl from $(basename "$TARBALL")"
    rm -rf "$folder/opt/musl" "$folder/build"
    mkdir -p "$folder/opt/musl/include" "$folder/build"
    logged libffi-musl "$HERE/inside" "$folder" sh -ec "
        ln -s /usr/include/linux /usr/include/asm-generic /usr/include/*-linux-gnu/asm /opt/musl/include
        cd /build
        tar -x --strip-components=1 -f $TARBALL
        ./configure -q CC=$HERE/musl-cc --prefix=/opt/musl --disable-shared --with-pic --disable-docs --disable-multi-os-directory
        make -s -j$(nproc)
        make -s install" || return
    rm -rf "$folder/build"
    made libffi-musl "$recipe"
}

# launcher NAME ROOT PYTHON: /usr/bin/pythonX.Y-launcher there, so that it finds its standard library.
launcher() {
    local recipe
    recipe="$2 $3 $(cksum < "$HERE/launcher.c")"
    is_made "launcher-$1" "$recipe" && return
    logged "launcher-$1" "$HERE/inside" "$CACHE/roots/$2" sh -ec \
        "gcc -O1 -g $HERE/launcher.c -o $3-launcher \$($3-config --includes --ldflags --embed)" || return
    made "launcher-$1" "$recipe"
}

# foreign ROOT ARCHITECTURE [PACKAGE]: a compiler for that processor, there, and the Python of that package for it, whose executable
# is /usr/bin/PACKAGE-ARCHITECTURE. Without a package, what the library is built with.
foreign() {
    local packages unpacked put_in_place name=foreign-$1-$2-${3:-rust}
    processor "$2"
    # What is unpacked and not installed needs no other packages, and nobody tries to run it.
    if [ -n "${3:-}" ]; then
        packages="g++-$TRIPLE libstdc++6:$2 lib$3-dev:$2"
        # Where it is, the executable finds its standard library.
        unpacked=$3-minimal put_in_place="mv $2/usr/bin/$3 /usr/bin/$3-$2"
    else
        packages="g++-$TRIPLE"
        unpacked=libstd-rust-dev put_in_place="cp -a $2/. /"
    fi
    root "$1" || return
    is_made "$name" "$packages $unpacked" && return
    say "installing in Debian $1: $packages $unpacked:$2"
    logged "$name" "$HERE/inside" "$CACHE/roots/$1" sh -ec \
        "dpkg --add-architecture $2; $APT update; $APT install $packages; apt-get clean
        cd /tmp; rm -rf $2; $APT download $unpacked:$2; dpkg-deb -x ${unpacked}_*_$2.deb $2
        $put_in_place
        rm -rf $2 ${unpacked}_*_$2.deb /var/lib/apt/lists/*" || return
    made "$name" "$packages $unpacked"
}

# library_foreign ARCHITECTURE: the library, in $CACHE/results/library-ARCHITECTURE, by Debian's Rust.
library_foreign() {
    local folder=$CACHE/results/library-$1 crates=$CACHE/results/crates variable
    processor "$1"
    say "building the library for $1"
    mkdir -p "$folder" "$crates"
    # What cargo has fetched out here is all that it needs in there.
    (cd "$PROJECT" && cargo vendor --locked --versioned-dirs "$crates/vendor" \
        > "$crates/config.toml" 2> "$CACHE/logs/vendor.log") ||
        { refuse "the crates cannot be had: $(tail -n 3 "$CACHE/logs/vendor.log")"; return; }
    variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<< "$TARGET")_LINKER
    logged "library-$1" "$HERE/inside" "$CACHE/roots/$BUILD_SUITE-$FAMILY" \
        env -C "$PROJECT" CARGO_HOME="$folder/home" "$variable=$TRIPLE-gcc" \
        cargo --config "$crates/config.toml" rustc --release --lib --crate-type cdylib --locked --offline \
        --target "$TARGET" --target-dir "$folder/target" -- --cfg pep788_c_library -C force-unwind-tables=yes || return
    install -m 755 "$folder/target/$TARGET/release/libpep788.so" "$folder"
}
