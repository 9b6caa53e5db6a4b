#!/bin/sh
# Compiles demo.c for one Python and runs it: demo.sh [PYTHON [EXITS]]
# Needs the library in target/release; `make demo` builds it first.
set -eu

python=${1:-python3}
exits=${2:-${DEMO_EXITS:-20}}
cc=${CC:-cc}
cxx=${CXX:-c++}

die() {
    echo "demo: $*" >&2
    exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
library=$(cd "${CARGO_TARGET_DIR:-$root/target}/release" 2>/dev/null && pwd) ||
    die "there is no library yet: run make"

info=$("$python" "$root/c_tests/pyinfo.py") ||
    die "'$python' does not run; name another: make demo PYTHON=python3.x"
fact() {
    echo "$info" | sed -n "s/^$1=//p"
}
version=$(fact version)
short=$(echo "$version" | cut -d. -f1,2)
case "$(fact implementation) $short" in
    [Cc][Pp]ython\ 3.9 | [Cc][Pp]ython\ 3.[1-9][0-9]) ;;
    *) die "$python is $(fact implementation) $version; this needs CPython 3.9 or later" ;;
esac
[ "$(fact has_headers)" = 1 ] ||
    die "$python has no headers (Debian, Ubuntu: apt install python$short-dev)"
command -v $cc >/dev/null || die "no C compiler '$cc' (Debian, Ubuntu: apt install gcc)"

out=$library/../demo/$version
mkdir -p "$out"
set --
if command -v $cxx >/dev/null; then
    $cxx -c "$here/noexcept_frame.cc" -o "$out/noexcept_frame.o"
    set -- -DHAVE_CXX "$out/noexcept_frame.o" -lstdc++
else
    echo "No C++ compiler (Debian, Ubuntu: apt install g++): the C++ rows are left out."
fi
$cc -O2 -Wall -pthread $(fact cflags) -I"$root/include" "$here/demo.c" "$@" -o "$out/demo" \
    -L"$library" -Wl,-rpath,"$library" -lpep788 $(fact ldflags_embed)

# Crashes are to be expected: no core files, and what dying processes write goes to a file.
ulimit -c 0
status=0
PYTHONHOME=$(fact home) "$out/demo" "$exits" 2>"$out/stderr.txt" || status=$?
if [ -s "$out/stderr.txt" ]; then
    echo "What the processes wrote to stderr: $(cd "$out" && pwd)/stderr.txt"
    [ $status = 0 ] || tail -n 5 "$out/stderr.txt"
fi
exit $status
