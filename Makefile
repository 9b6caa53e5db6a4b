# libpep788. `make help` lists the targets.

PYTHON ?=
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: all help lib headers demo check lint check-rust check-c clients docs-test matrix model stress clean

all: headers lib

help:
	@echo 'make            the library (target/release) and the headers (include)'
	@echo 'make demo       what becomes of native threads at exit, without PEP 788 and with it'
	@echo 'make check      every test, on every CPython from 3.9 on that is found'
	@echo 'make clients    the examples in C++, Cython, Rust, pybind11, nanobind, PyO3, and many exits of each'
	@echo 'make docs-test  compiles the code in README.md and docs/migrating.md'
	@echo 'make matrix     the C suite on every CPython there is, brought in from Debian (as root)'
	@echo 'make model      the gate and the records under a model checker: all interleavings of a few threads'
	@echo 'make stress     random programs that exit at random moments; EXITS=1000 for each Python'
	@echo 'make lint       formatting and lints'
	@echo 'make headers    write include/*.h from src/capi'
	@echo 'PYTHON=/path/to/python3.x with demo, check, clients and docs-test: this one only'

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
	rustfmt --check --edition 2021 examples/*/src/lib.rs tests/rust_api/src/lib.rs
	$(CARGO) clippy --all-targets -- -D warnings

check: check-rust check-c

# The library's own tests, the headers, the exported symbols, the documents' C and C++, the Rust API's.
check-rust: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --lib --test headers --test surface
	$(CARGO) test --doc

# The C suite: c_tests/, one process per scenario and Python.
check-c: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --test c_suite

# In clean virtual environments, with what PyPI and crates.io have.
clients: lib
	$(or $(PYTHON),python3) examples/clients/run.py $(PYTHON)

docs-test: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --test surface code_in_
	$(or $(PYTHON),python3) examples/clients/run.py --docs $(PYTHON)

# Every CPython there is; matrix/README.md says where they come from.
matrix:
	matrix/run

# `loom` explores the gate and the life of records. More preemptions than 3 take minutes and hours.
model:
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --release --lib --target-dir $(TARGET_DIR)/loom

# Not yet a gate: see stress/stress.c.
stress: lib
	sh stress/stress.sh "$(PYTHON)" $(EXITS)

clean:
	$(CARGO) clean
