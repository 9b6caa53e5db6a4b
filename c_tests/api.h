/* The API under test, from wherever this Python has it: the interpreter from 3.15, else the library.
 *
 * One dialect per C file: the draft's files define API_DRAFT before they include this, and files
 * that declare everything themselves define API_NONE. API_COMPAT is for compat.py. The runner defines PEP788_FORCE where a
 * program is linked with the library though the interpreter has the API too. */

#ifndef API_H
#define API_H

#ifndef PY_SSIZE_T_CLEAN
#  define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>

#if defined(API_DRAFT)
#  include "pep788_draft.h"
#elif defined(API_COMPAT)
#  include "pep788_compat.h"
#elif !defined(API_NONE)
#  if PY_VERSION_HEX < 0x030F0000 || defined(PEP788_FORCE)
#    include "pep788.h"
#  endif
#endif

#endif
