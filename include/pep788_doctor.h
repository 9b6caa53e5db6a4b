/*
 * pep788_doctor.h: what libpep788 says of itself. It goes with either dialect, and needs no Python.h.
 *
 * Written by cbindgen from src/capi/doctor.rs; changes belong there.
 */

#ifndef PEP788_DOCTOR_H
#define PEP788_DOCTOR_H

#include <stddef.h>

/* Of these headers, as PY_VERSION_HEX is of Python's: two digits each for major, minor and patch, and two zeros. */
#ifndef PEP788_VERSION
#define PEP788_VERSION "0.1.0"
#define PEP788_VERSION_HEX 0x00010000
#endif


/**
 * There is no CPython in this process, yet.
 */
#define PEP788_ENGINE_NONE 0

/**
 * This library.
 */
#define PEP788_ENGINE_LIBRARY 1

/**
 * The interpreter itself (3.15 and later).
 */
#define PEP788_ENGINE_NATIVE 2

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that runs, as PEP788_VERSION is that of the headers: "0.1.0".
 *
 * Caller: any thread, attached or not. Returns a text that is never freed. Cannot fail.
 *
 * Contract: this library's own.
 */
const char *Pep788_Version(void);

/**
 * Who serves the accepted API in this process.
 *
 * Caller: any thread, attached or not, also in a process without Python. From 3.15 on it reads the settings, which stay
 * as they are from then on.
 *
 * Returns PEP788_ENGINE_NONE, PEP788_ENGINE_LIBRARY or PEP788_ENGINE_NATIVE. Cannot fail.
 *
 * Contract: this library's own.
 */
int Pep788_Engine(void);

/**
 * Tells who serves PEP 788 in this process, and how: lines of text `name: value`, of the engine and
 * of the exit callback of the attached interpreter (with nothing attached: of the main one), and
 * the settings in force, `NAME=value`. For people; programs should not take it apart.
 *
 * Caller: any thread, attached or not, also in a process without Python. Reads the settings, which
 * stay as they are from then on.
 *
 * Returns the length of the text in bytes. As much of it as fits is written to `text`, which has
 * room for `size` bytes, with a NUL at its end; nothing is if `size` is 0. Cannot fail.
 *
 * Contract: this library's own.
 */
size_t Pep788_Doctor(char *text, size_t size);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PEP788_DOCTOR_H */
