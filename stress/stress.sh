#!/bin/sh
# Programs that mix everything, each ended at a random moment: stress.sh [PYTHON [EXITS]]
# Without PYTHON: every CPython from 3.9 on that is found. EXITS: 1000 for each.
# STRESS_SEED=n replays that seed, EXITS times (else once).
# STRESS_LIMIT: seconds after which an exit is taken for hung; 30 unless said.
# Needs the library in target/release; `make stress` builds it first.
set -eu

exits=${2:-${EXITS:-}}
seed=${STRESS_SEED:-}
if [ -n "$seed" ]; then exits=${exits:-1}; fi
exits=${exits:-1000}
cc=${CC:-cc}

die() {
    echo "stress: $*" >&2
    exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
library=$(cd "${CARGO_TARGET_DIR:-$root/target}/release" 2>/dev/null && pwd) ||
    die "there is no library yet: run cargo build --release"

fact() {
    echo "$info" | sed -n "s/^$1=//p"
}

ulimit -c 0
status=0
ran=0
seen=" "

stress() { # PYTHON
    info=$("$1" "$root/c_tests/pyinfo.py" 2>/dev/null) || { echo "skipped $1: does not run"; return 0; }
    version=$(fact version)
    case "$(fact implementation) $version" in
        [Cc][Pp]ython\ 3.9.* | [Cc][Pp]ython\ 3.[1-9][0-9].*) ;;
        *) echo "skipped $1: $(fact implementation) $version"; return 0 ;;
    esac
    executable=$(fact executable)
    case "$seen" in *" $executable "*) return 0 ;; esac
    seen="$seen$executable "
    [ "$(fact has_headers)" = 1 ] || { echo "skipped $1: $version without headers"; return 0; }

    out=$library/../stress/$version-$(echo "$executable" | cksum | cut -d' ' -f1)
    mkdir -p "$out"
    $cc -O2 -g -Wall -Wextra -pthread $(fact cflags) -I"$root/include" "$here/stress.c" \
        "$here/stress_draft.c" -o "$out/stress" -L"$library" -Wl,-rpath,"$library" -lpep788 \
        $(fact ldflags_embed) 2>"$out/cc.txt" || { cat "$out/cc.txt"; die "cannot build for $1"; }
    ran=$((ran + 1))
    PYTHONHOME=$(fact home) "$out/stress" "$exits" $seed 2>"$out/log.txt" || {
        status=1
        echo "    what happened: $(cd "$out" && pwd)/log.txt"
    }
}

echo "Python        exits crashed   hung lost calls      calls  refused   subs  forks    time"
if [ -n "${1:-}" ]; then
    stress "$1"
else
    for python in "$(command -v python3 || :)" "$HOME"/.pyenv/versions/*/bin/python /usr/bin/python3.*; do
        case "$python" in *-config) continue ;; esac
        if [ -x "$python" ]; then stress "$python"; fi
    done
fi
[ $ran -gt 0 ] || die "no CPython from 3.9 on"
exit $status
