/* What the scenarios use of POSIX, on Windows. Included by harness.h. The C library is the one that CPython has (UCRT), so
 * variables of the environment, files and signal handlers are the same for both. */

#ifndef ON_WINDOWS_H
#define ON_WINDOWS_H

#include <fcntl.h>
#include <io.h>
#include <signal.h>
#include <stdlib.h>

static inline int setenv(const char *name, const char *value, int overwrite)
{
    return overwrite || getenv(name) == NULL ? _putenv_s(name, value) : 0;
}

static inline int unsetenv(const char *name)
{
    return _putenv_s(name, "");
}

static inline int pipe(int ends[2])
{
    return _pipe(ends, 1 << 16, _O_BINARY);
}

/* To this process only. */
static inline int kill(int process, int number)
{
    (void)process;
    return raise(number);
}

/* A signal that means nothing else. */
#define SIGUSR1 SIGBREAK

#endif
