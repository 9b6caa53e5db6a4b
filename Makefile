# libpep788. `make help` lists the targets.

PYTHON ?=
CARGO ?= cargo
# Runs the scripts in bench/.
BENCH_PYTHON ?= python3
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: all help lib headers demo check lint check-rust check-c matrix model stress bench bench-check bench-update clean

all: headers lib

help:
	@echo 'make            the library (target/release) and the headers (include)'
	@echo 'make demo       what becomes of native threads at exit, without PEP 788 and with it'
	@echo 'make check      every test, on every CPython from 3.9 on that is found'
	@echo 'make matrix     the C suite on every CPython there is, brought in from Debian (as root)'
	@echo 'make model      the gate and the records under a model checker: all interleavings of a few threads'
	@echo 'make stress     random programs that exit at random moments; EXITS=1000 for each Python'
	@echo 'make bench      what a pair of calls costs beside what it replaces, on every CPython that is found'
	@echo 'make bench-check  whether a pair costs more instructions than was committed'
	@echo 'make lint       formatting and lints'
	@echo 'make headers    write include/*.h from src/capi'
	@echo 'PYTHON=/path/to/python3.x with demo, check and bench: this one only'

lib:
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust (Debian: apt install cargo)'; exit 2; }
	@command -v $${CC:-cc} >/dev/null || { echo 'a C compiler is missing (Debian: apt install gcc)'; exit 2; }
	$(CARGO) build --release

headers: lib
	PEP788_WRITE_HEADERS=1 $(CARGO) test --quiet --test headers

demo: lib
	sh examples/demo/demo.sh $(or $(PYTHON),python3)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

check: check-rust check-c

# The library's own tests, the headers, the exported symbols, the README's code.
check-rust: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --lib --test headers --test surface

# The C suite: c_tests/, one process per scenario and Python. And random calls against a model:
# tests/properties, where PROPTEST_CASES and PROPTEST_RNG_SEED mean more and others of them.
check-c: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --test c_suite --test properties

# Every CPython there is; matrix/README.md says where they come from.
matrix:
	matrix/run

# `loom` explores the gate and the life of records. More preemptions than 3 take minutes and hours.
model:
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --release --lib --target-dir $(TARGET_DIR)/loom

# Not yet a gate: see stress/stress.c.
stress: lib
	sh stress/stress.sh "$(PYTHON)" $(EXITS)

# A path, or the version of one that is found: `make bench PYTHON=3.13t`.
bench: lib
	$(BENCH_PYTHON) bench/bench.py $(PYTHON)

# By instructions, which repeat exactly; against bench/instructions.csv, which `bench-update` writes.
bench-check: lib
	$(BENCH_PYTHON) bench/check.py $(PYTHON)

bench-update: lib
	$(BENCH_PYTHON) bench/check.py --update $(PYTHON)

clean:
	$(CARGO) clean
