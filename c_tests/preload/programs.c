/* Programs without Python do with the library preloaded what they do without it. */
// macos-file: no, what is preloaded there does not come first for names
// link: no-python

#define _POSIX_C_SOURCE 200809L
#include "harness.h"

#include <signal.h>
#include <sys/wait.h>

/* Runs it in a shell; its status as `wait` gives it, and all that it printed. */
static int shell(const char *command, bool preloaded, char *printed, size_t size)
{
    char line[512];
    snprintf(line, sizeof line, "( %s ) 2>&1", command);
    char library[4096];
    const char *preload = getenv("LD_PRELOAD");
    CHECK(preload != NULL);
    CHECK(strlen(preload) < sizeof library);
    strcpy(library, preload);
    if (!preloaded) {
        CHECK_INT(unsetenv("LD_PRELOAD"), 0);
    }
    FILE *pipe = popen(line, "r");
    CHECK(pipe != NULL);
    CHECK_INT(setenv("LD_PRELOAD", library, 1), 0);
    size_t length = fread(printed, 1, size - 1, pipe);
    printed[length] = '\0';
    return pclose(pipe);
}

/* How it exits, with and without the library. */
static int same(const char *command)
{
    char with[4096], without[4096];
    int with_status = shell(command, true, with, sizeof with);
    int without_status = shell(command, false, without, sizeof without);
    if (with_status != without_status || strcmp(with, without) != 0) {
        check_failed(__FILE__, __LINE__, "`%s` with the library: %d, %s; without: %d, %s", command,
                     with_status, with, without_status, without);
    }
    CHECK(WIFEXITED(with_status));
    return WEXITSTATUS(with_status);
}

SCENARIO(children_have_it_too, "The programs of these scenarios have the library loaded, and those they are compared with have not")
{
    char printed[4096];
    CHECK_INT(shell("grep -c libpep788 /proc/self/maps", true, printed, sizeof printed), 0);
    CHECK(atoi(printed) > 0);
    shell("grep -c libpep788 /proc/self/maps", false, printed, sizeof printed);
    CHECK(strcmp(printed, "0\n") == 0);
}

SCENARIO(exit_codes, "It changes no exit code")
{
    CHECK_INT(same("/bin/true"), 0);
    CHECK_INT(same("/bin/false"), 1);
    CHECK_INT(same("sh -c 'exit 3'"), 3);
    CHECK_INT(same("sh -c 'kill -TERM $$'"), 128 + SIGTERM);
    CHECK_INT(same("sh -c 'sh -c \"exit 4\"; exit $(($? + 1))'"), 5);
    CHECK_INT(same("a-program-that-does-not-exist"), 127);
}

SCENARIO(output, "It prints nothing, and keeps nothing from being printed")
{
    CHECK_INT(same("echo words | tr a-z A-Z | sort"), 0);
    CHECK_INT(same("echo to stderr >&2"), 0);
    CHECK(same("ls /there/is/no/such/folder") != 0);
    CHECK_INT(same("env -i sh -c 'echo without an environment'"), 0);
}

SCENARIO(bash, "bash runs as ever, with its jobs, pipes and traps")
{
    if (system("command -v bash >/dev/null") != 0) {
        puts("no bash here");
        return;
    }
    CHECK_INT(same("bash -c 'trap \"echo bye\" EXIT; (exit 6) & wait $!; exit $?'"), 6);
    CHECK_INT(same("bash -c 'for i in 1 2 3; do echo $i & done; wait' | sort"), 0);
}

SCENARIO(cargo, "A big program with threads of its own runs as ever: cargo")
{
    const char *command = "\"${CARGO:-cargo}\" --version";
    char printed[4096];
    if (shell(command, false, printed, sizeof printed) != 0) {
        puts("no cargo here");
        return;
    }
    CHECK(strncmp(printed, "cargo ", 6) == 0);
    CHECK_INT(same(command), 0);
}

/* --- A program's own threads and forks ----------------------------------------------------------- */

enum { THREADS = 4, FORKS = 25 };

static event stop = EVENT_INIT;

static void wait_for_stop(void *unused)
{
    (void)unused;
    event_wait(&stop);
}

static void set(void *argument)
{
    event_set((event *)argument);
}

static void child(void)
{
    event started = EVENT_INIT;
    pthread_t thread = thread_start(set, &started);
    event_wait(&started);
    thread_join(thread);
    exit(7);
}

static void fork_and_wait(void *unused)
{
    (void)unused;
    for (int i = 0; i < FORKS; i++) {
        pid_t id = fork();
        CHECK(id >= 0);
        if (id == 0) {
            child();
        }
        int status;
        CHECK_INT(waitpid(id, &status, 0), id);
        CHECK(WIFEXITED(status));
        CHECK_INT(WEXITSTATUS(status), 7);
    }
}

// sanitize: not address thread, their malloc may stay locked in a forked child of a process with threads
SCENARIO(threads_and_forks, "Forked from any thread, a child has threads of its own and exits as it wants")
{
    pthread_t waiting = thread_start(wait_for_stop, NULL);
    pthread_t forking[THREADS];
    for (int i = 0; i < THREADS; i++) {
        forking[i] = thread_start(fork_and_wait, NULL);
    }
    fork_and_wait(NULL);
    for (int i = 0; i < THREADS; i++) {
        thread_join(forking[i]);
    }
    event_set(&stop);
    thread_join(waiting);
}
