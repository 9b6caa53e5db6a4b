/* Reading what a waiting exit says: stderr is a pipe meanwhile, and nothing goes on before the
 * report has come out of it. */

#ifndef REPORT_H
#define REPORT_H

#include "harness.h"

#include <errno.h>
#include <signal.h>

/* The last line, with PEP788_TRACE=1 and without. */
#define END_TRACED "an Ensure that holds the interpreter\n"
#define END_UNTRACED "PEP788_TRACE=1 lists where each was taken\n"

static char report[1 << 17];
static size_t report_length;
static int report_pipe[2];
static int stderr_before;

__attribute__((unused))
static void capture_stderr(void)
{
    stderr_before = dup(STDERR_FILENO);
    CHECK(stderr_before >= 0);
    CHECK_INT(pipe(report_pipe), 0);
    CHECK(dup2(report_pipe[1], STDERR_FILENO) >= 0);
    close(report_pipe[1]);
}

/* Reads until `end` has come; NULL: until stderr is given back. */
__attribute__((unused))
static void read_report(const char *end)
{
    for (;;) {
        if (end != NULL && strstr(report, end) != NULL) {
            return;
        }
        ssize_t more = read(report_pipe[0], report + report_length, sizeof report - 1 - report_length);
        if (more == 0) {
            return;
        }
        if (more > 0) {
            report_length += (size_t)more;
        }
        else if (errno != EINTR) {
            abort();
        }
    }
}

/* Gives stderr back, so that a failed check is seen, and reads what is left. */
__attribute__((unused))
static void release_stderr(void)
{
    CHECK(dup2(stderr_before, STDERR_FILENO) >= 0);
    read_report(NULL);
}

__attribute__((unused))
static int count_in_report(const char *text)
{
    int count = 0;
    for (const char *at = report; (at = strstr(at, text)) != NULL; at++) {
        count++;
    }
    return count;
}

static inline void check_report(const char *file, int line, const char *text, bool says)
{
    if ((strstr(report, text) != NULL) != says) {
        check_failed(file, line, "the report %s \"%s\":\n%s", says ? "has no" : "has", text, report);
    }
}

#define CHECK_SAYS(text) check_report(__FILE__, __LINE__, text, true)
#define CHECK_SAYS_NOT(text) check_report(__FILE__, __LINE__, text, false)

/* --- Rounds of the wait -------------------------------------------------------------------------- */

static pthread_mutex_t rounds_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t one_is_done = PTHREAD_COND_INITIALIZER;
static int rounds_done;

static void note_round(void)
{
    pthread_mutex_lock(&rounds_lock);
    rounds_done++;
    pthread_cond_signal(&one_is_done);
    pthread_mutex_unlock(&rounds_lock);
}

/* While it waits, the exit looks around again and again: it reports, if it is time to, and then
 * runs Python's signal handlers. One of those tells that it has done so. */
__attribute__((unused))
static void watch_rounds(void)
{
    expose("note_round", note_round);
    run("import signal\n"
        "name = 'SIGUSR1' if hasattr(signal, 'SIGUSR1') else 'SIGBREAK'\n"
        "signal.signal(getattr(signal, name), lambda *_: note_round())");
}

__attribute__((unused))
static void await_rounds(int rounds)
{
    while (rounds-- > 0) {
        kill(getpid(), SIGUSR1);
        pthread_mutex_lock(&rounds_lock);
        while (rounds_done == 0) {
            pthread_cond_wait(&one_is_done, &rounds_lock);
        }
        rounds_done--;
        pthread_mutex_unlock(&rounds_lock);
    }
}

#endif
