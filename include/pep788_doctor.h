/*
 * pep788_doctor.h: what libpep788 says of itself. It goes with either dialect, and needs no Python.h.
 *
 * Written by cbindgen from src/capi/doctor.rs; changes belong there.
 */

#ifndef PEP788_DOCTOR_H
#define PEP788_DOCTOR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

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
