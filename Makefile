# libpep788. `make help` lists the targets.

PYTHON ?=
CARGO ?= cargo
# Runs the scripts in bench/.
BENCH_PYTHON ?= python3
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Where `make install` puts things; DESTDIR is for packagers, and is not written into any file.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DESTDIR ?=

.PHONY: all help lib headers demo check lint lint-macos lint-windows lint-processors macos check-rust check-c matrix aarch64 processors model stress sanitize clean
.PHONY: bench bench-check bench-update installable install uninstall install-test wheel clients docs-test
.PHONY: windows wheel-windows a-wheel wheels musl strata book compat packaging scan-test diagnose-test seatbelt seatbelt-cpython seatbelt-hosts dist

all: headers lib

help:
	@echo 'make            the library (target/release) and the headers (include)'
	@echo 'make demo       what becomes of native threads at exit, without PEP 788 and with it'
	@echo 'make check      every test, on every CPython from 3.9 on that is found'
	@echo 'make clients    the examples in C++, Cython, Rust, pybind11, nanobind, PyO3, and many exits of each'
	@echo 'make docs-test  compiles the code in README.md and docs/, and follows their links'
	@echo 'make matrix     the C suite on every CPython there is, brought in from Debian (as root)'
	@echo 'make aarch64    the library and the C suite for aarch64, emulated (as root, on x86-64)'
	@echo 'make processors the library and scenarios of the C suite for i386, armv7, riscv64, s390x, ppc64le, most emulated (as root, on x86-64)'
	@echo 'make macos      the library for macOS, built here for arm64 and x86-64 and looked through (not run)'
	@echo 'make musl       the library and the C suite for musl, with a CPython built for it (as root, on x86-64); WORDS=late'
	@echo 'make windows    the library and the C suite for Windows, run by wine (as root, on x86-64)'
	@echo 'make model      the gate and the records under a model checker: all interleavings of a few threads'
	@echo 'make stress     programs that mix everything and exit at random moments; EXITS=1000 of each Python, else 50'
	@echo 'make sanitize   the C suite under AddressSanitizer, ThreadSanitizer, valgrind; QUICK=quick, COUNT=100000'
	@echo 'make seatbelt   programs that nobody adapted, with PyGILState_Ensure protected and without; EXITS=200 of each'
	@echo 'make seatbelt-hosts  programs that load a Python late, from Debian and PyPI, with protection and without'
	@echo 'make seatbelt-cpython  tests of CPython, with PyGILState_Ensure protected and without: the same comes out'
	@echo 'make bench      what a pair of calls costs beside what it replaces, on every CPython that is found'
	@echo 'make bench-check  whether a pair costs more instructions than was committed'
	@echo 'make lint       formatting and lints'
	@echo 'make headers    write include/*.h from src/capi'
	@echo 'make book       the documents as one searchable book (target/book); needs mdbook'
	@echo 'make strata     write the picture of src in docs/design.md'
	@echo 'make install    to PREFIX (/usr/local), LIBDIR, INCLUDEDIR, below DESTDIR; make uninstall'
	@echo 'make installable  what it installs, for a root that has no cargo'
	@echo 'make install-test  use an installed copy: pkg-config, CMake, Meson; copies in extensions'
	@echo 'make compat     pep788_compat.h, without the library, also on PyPy'
	@echo 'make wheel      the wheel and the sdist, tested in virtual environments'
	@echo 'make diagnose-test  what `watch` tells of exits, and its page and trace; with the wheel'
	@echo 'make wheels     manylinux2014 and musllinux wheels for x86-64 and aarch64 (target/wheels)'
	@echo 'make wheel-windows  the wheel for Windows, with extensions of both kinds, run by wine'
	@echo 'make dist       crate, wheel, source tarball and checksums of the last commit, each tried out'
	@echo 'PYTHON=/path/to/python3.x with all that run Python: this one only'

# No other Rust code is in it, so it brings its own allocator and panics in place of the standard library's; src/lib.rs.
# For 32-bit ARM, Rust makes the tables by which stacks are read only if it is asked to.
FOR_C := -- --cfg pep788_c_library -C force-unwind-tables=yes

# One kind of library at a time: beside an `rlib`, whose functions Rust programs inline, the compiler cannot take all that is
# not exported for its own. The shared library would be 75 KB longer, and a pair up to 8 % (docs/performance.md).
lib:
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust (Debian: apt install cargo)'; exit 2; }
	@command -v $${CC:-cc} >/dev/null || { echo 'a C compiler is missing (Debian: apt install gcc)'; exit 2; }
	$(CARGO) rustc --release --lib --crate-type cdylib $(FOR_C)

headers: lib
	PEP788_WRITE_HEADERS=1 $(CARGO) test --quiet --test headers

# The picture of the layers in docs/design.md, from the imports in src.
strata:
	PEP788_WRITE_STRATA=1 $(CARGO) test --quiet --test strata

demo: lib
	sh examples/demo/demo.sh $(or $(PYTHON),python3)

lint: lint-macos lint-windows lint-processors
	$(CARGO) fmt --check
	rustfmt --check --edition 2021 examples/*/src/lib.rs tests/rust_api/src/lib.rs
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --lib -- -D warnings --cfg pep788_c_library
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	$(CARGO) test --quiet --test strata

# What is compiled for macOS alone compiles, the tests' Rust too. The C is left to `make macos`: `true` stands for its compiler.
MACOS := aarch64-apple-darwin
lint-macos:
	@test -d "$$(rustc --print target-libdir --target $(MACOS))" || { \
		echo 'Rust has no library for macOS here, to check that the library compiles for it: rustup target add $(MACOS)'; exit 2; }
	CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true $(CARGO) clippy --quiet --all-targets --target $(MACOS) -- -D warnings
	CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true $(CARGO) clippy --quiet --lib --target $(MACOS) $(FOR_C) -D warnings

# The same for Windows; the C is left to `make windows`.
WINDOWS := x86_64-pc-windows-gnu
lint-windows:
	@test -d "$$(rustc --print target-libdir --target $(WINDOWS))" || { \
		echo 'Rust has no library for Windows here, to check that the library compiles for it: rustup target add $(WINDOWS)'; exit 2; }
	CC_x86_64_pc_windows_gnu=true AR_x86_64_pc_windows_gnu=true $(CARGO) clippy --quiet --lib --target $(WINDOWS) -- \
		-D warnings --cfg pep788_c_library

# The same for a processor of 32 bits, with an unwinder of its own, and for a big-endian one; the C is left to `make processors`.
PROCESSORS := armv7-unknown-linux-gnueabihf s390x-unknown-linux-gnu
lint-processors:
	@for target in $(PROCESSORS); do \
		test -d "$$(rustc --print target-libdir --target $$target)" || { \
			echo "Rust has no library for $$target here, to check that the library compiles for it: rustup target add $$target"; exit 2; }; \
		TARGET_CC=true TARGET_AR=true $(CARGO) clippy --quiet --lib --target $$target $(FOR_C) -D warnings || exit; \
	done

# For both processors. Nothing here runs them: macos/build says what it looks at.
macos:
	macos/build

check: check-rust check-c

# The library's own tests, the headers, the exported symbols, the documents' C and C++, the Rust API's.
check-rust: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --lib --test strata --test headers --test surface
	$(CARGO) test --doc

# The C suite: c_tests/, one process per scenario and Python. And random calls against a model:
# tests/properties, where PROPTEST_CASES and PROPTEST_RNG_SEED mean more and others of them. And a Python
# that is loaded late: tests/late.
check-c: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --test c_suite --test properties --test late

# In clean virtual environments, with what PyPI and crates.io have.
clients: lib
	$(or $(PYTHON),python3) examples/clients/run.py $(PYTHON)

docs-test: lib
	PEP788_LIB_DIR=$(TARGET_DIR)/release $(CARGO) test --test surface -- code_in_ links_in_
	$(or $(PYTHON),python3) examples/clients/run.py --docs $(PYTHON)

# The documents as one book, target/book; it needs mdbook.
book:
	$(or $(PYTHON),python3) book/build.py

# The projects of docs/packaging.md, with PyPI and crates.io.
packaging: a-wheel
	$(or $(PYTHON),python3) examples/packaging/run.py $(PYTHON)

# What pep788_compat.h does without the library, on every CPython found and on PyPy.
compat:
	$(or $(PYTHON),python3) c_tests/compat.py $(PYTHON)

# Every CPython there is; matrix/README.md says where they come from. MATRIX=--brought-in leaves out those that
# `check` runs on.
matrix:
	matrix/run $(MATRIX)

aarch64:
	matrix/run 3.11-aarch64 3.13-aarch64

# Of 32 bits, big-endian, and others. WORDS as for `musl`; `accepted/` if there are none.
processors:
	matrix/run 3.11-i386 3.13-i386 3.11-armhf 3.13-armhf 3.13-riscv64 3.11-s390x 3.11-ppc64el -- $(or $(WORDS),accepted/)

# WORDS are parts of names of scenarios; those that have all of them are run.
musl:
	matrix/run 3.13-musl $(if $(WORDS),-- $(WORDS))

# SERIES=3.13 is for these versions.
windows:
	matrix/run $(addsuffix -windows,$(or $(SERIES),3.9 3.10 3.11 3.12 3.13))

# `loom` explores the gate and the life of records. More preemptions than 3 take minutes and hours.
model:
	RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=3 $(CARGO) test --release --lib --target-dir $(TARGET_DIR)/loom

# sanitize/README.md says what is run, and under which Pythons.
sanitize:
	COUNT=$(COUNT) PYTHON=$(PYTHON) sanitize/run $(QUICK)

# Programs that mix everything and exit at random moments; EXITS of each Python, also of the matrix's roots.
# What failed is listed by its seed: `make stress PYTHON=3.12 EXITS=100 STRESS_SEED=seed` plays it again.
stress: lib
	$(BENCH_PYTHON) stress/stress.py $(PYTHON)

# Fails if a protected exit crashes, hangs, or has another status. PYTHON is a path or a version; PROGRAMS=nesting,detaching is for these,
# KINDS=A,B for those of these kinds, PLAIN=10 for fewer exits without protection, LOAD=4 for a busy machine.
seatbelt: lib
	$(BENCH_PYTHON) seatbelt/run.py $(if $(EXITS),--exits $(EXITS)) $(if $(PLAIN),--plain $(PLAIN)) $(if $(PROGRAMS),--programs $(PROGRAMS)) $(if $(KINDS),--kinds $(KINDS)) $(if $(LOAD),--load $(LOAD)) $(PYTHON)

seatbelt-cpython: lib
	$(BENCH_PYTHON) seatbelt/cpython.py $(PYTHON)

# What is not installed is skipped. EXITS=20 of each; HOSTS='uwsgi gdb' is for these.
seatbelt-hosts: lib
	$(BENCH_PYTHON) seatbelt/hosts.py $(if $(EXITS),--exits $(EXITS)) $(HOSTS)

# A path, or the version of one that is found: `make bench PYTHON=3.13t`.
bench: lib
	$(BENCH_PYTHON) bench/bench.py $(PYTHON)

# By instructions, which repeat exactly; against bench/instructions.csv, which `bench-update` writes.
bench-check: lib
	$(BENCH_PYTHON) bench/check.py $(PYTHON)

bench-update: lib
	$(BENCH_PYTHON) bench/check.py --update $(PYTHON)

# --- Installing ----------------------------------------------------------------------------------

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
SONAME := libpep788.so.$(firstword $(subst ., ,$(VERSION)))
SHARED := libpep788.so.$(VERSION)

BUILT := $(TARGET_DIR)/install/release
HEADERS := $(patsubst include/%,%,$(shell find include -type f))
SUBFOLDERS := $(sort $(filter-out ./,$(dir $(HEADERS))))
CMAKEDIR := $(LIBDIR)/cmake/pep788
PCDIR := $(LIBDIR)/pkgconfig
# From install/*.in.
FILLED_IN := $(addprefix $(PCDIR)/,pep788.pc pep788-static.pc) \
	$(addprefix $(CMAKEDIR)/,pep788-config.cmake pep788-config-version.cmake)

# In a folder of its own: with a soname, which the library in target/release does not have.
$(BUILT)/libpep788.so: Cargo.toml Cargo.lock build.rs install/prelink $(shell find src -type f)
	$(CARGO) rustc --release --lib --crate-type staticlib --features vendored --target-dir $(TARGET_DIR)/install $(FOR_C)
	install/prelink $(BUILT)/libpep788.a $(TARGET_DIR)/install/libpep788.a
	PEP788_SONAME=$(SONAME) $(CARGO) rustc --release --lib --crate-type cdylib --target-dir $(TARGET_DIR)/install $(FOR_C)
	touch $@

installable: $(BUILT)/libpep788.so

install: installable
	install -d $(DESTDIR)$(LIBDIR)
	install -m 755 $(BUILT)/libpep788.so $(DESTDIR)$(LIBDIR)/$(SHARED)
	ln -sf $(SHARED) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libpep788.so
	install -m 644 $(TARGET_DIR)/install/libpep788.a $(DESTDIR)$(LIBDIR)/libpep788.a
	for header in $(HEADERS); do \
		install -D -m 644 include/$$header $(DESTDIR)$(INCLUDEDIR)/$$header || exit; \
	done
	install -d $(DESTDIR)$(PCDIR) $(DESTDIR)$(CMAKEDIR)
	for file in $(FILLED_IN); do \
		sed -e 's|@PREFIX@|$(PREFIX)|;s|@LIBDIR@|$(LIBDIR)|;s|@INCLUDEDIR@|$(INCLUDEDIR)|' \
			-e 's|@SHARED@|$(SHARED)|;s|@SONAME@|$(SONAME)|;s|@VERSION@|$(VERSION)|' \
			install/$$(basename $$file).in > $(DESTDIR)$$file || exit; \
		chmod 644 $(DESTDIR)$$file; \
	done

# The folders go if nothing else is in them, but for those that any prefix has.
uninstall:
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,$(SHARED) $(SONAME) libpep788.so libpep788.a) \
		$(addprefix $(DESTDIR),$(FILLED_IN)) $(addprefix $(DESTDIR)$(INCLUDEDIR)/,$(HEADERS))
	rmdir $(DESTDIR)$(CMAKEDIR) $(addprefix $(DESTDIR)$(INCLUDEDIR)/,$(SUBFOLDERS)) 2>/dev/null || :

install-test:
	install/test/run $(PYTHON)

# The wheel and the sdist, in target/wheel/dist; built and tested in virtual environments.
wheel:
	wheel/test $(PYTHON)

# For systems as old as manylinux2014's, and with musl, on both processors, by zig, in target/wheels. That of this machine's kind is
# tested as the one of `wheel`, the others are used by a Python of theirs, if there can be one. QUICK=quick makes those of this processor, each
# used by one Python.
wheels:
ifdef QUICK
	wheel/cross x86_64-manylinux2014 x86_64-musllinux
else
	wheel/test --glibc 2.17 $(PYTHON)
	wheel/cross aarch64-manylinux2014 x86_64-musllinux aarch64-musllinux
endif

# The one for Windows, tried by wine, as root.
wheel-windows:
	wheel/windows $(SERIES)

# What is tested with a wheel takes the one that `wheel` or `dist` made last.
a-wheel:
	@ls $(TARGET_DIR)/wheel/dist/*.whl > /dev/null 2>&1 || ls $(TARGET_DIR)/dist/*.whl > /dev/null 2>&1 || $(MAKE) wheel

# `python -m pep788 scan`. ALL=all tries it on all released wheels of its table.
scan-test: a-wheel
	wheel/test_scan $(ALL)

# All that explains exits: `python -m pep788 scan`, and `watch` and `replay-exit`, with programs with faults and without.
diagnose-test: scan-test
	wheel/test_timeline
	wheel/test_watch $(PYTHON)

# What a release consists of, in target/dist; docs/releasing.md has the rest of the way.
dist:
	install/dist $(PYTHON)

clean:
	$(CARGO) clean
