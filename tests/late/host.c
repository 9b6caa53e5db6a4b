/* A host of plugins that knows nothing of the library, which is preloaded and asked to protect.
 *
 *   host CASE LIBPYTHON [PLUGIN]
 *
 * CASE: how it loads Python. `local` and `global`; `again`: it unloads it once, unused; `refused`: PLUGIN, which needs
 * Python and cannot be loaded, comes first; `plugin`: PLUGIN brings Python; `forked`: in a child; `only`: nothing else. Protection has to be on as soon as Python is loaded,
 * though another thread cannot be stopped; a thread that is inside PyGILState_Ensure has to come to its end; and one that comes back
 * to a Python that finalizes has to end without being unwound. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "host: not so: %s\n", what);
        _exit(99);
    }
}

#define CHECK(condition) check(condition, #condition)

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    check(found != NULL, name);
    return found;
}

static void *load(const char *path, int mode)
{
    void *library = dlopen(path, RTLD_NOW | mode);
    check(library != NULL, library == NULL ? dlerror() : "");
    return library;
}

/* The library's own word for it. */
static int is_protected(void)
{
    size_t (*doctor)(char *, size_t) = (size_t(*)(char *, size_t))dlsym(RTLD_DEFAULT, "Pep788_Doctor");
    char said[4096];
    return doctor != NULL && doctor(said, sizeof said) < sizeof said
        && strstr(said, "PyGILState_Ensure: protected\n") != NULL;
}

/* Cannot be stopped: it blocks all signals, those of the C library's own too, and runs. */
static void *restless(void *ready)
{
    unsigned long all = ~0UL;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, NULL, sizeof all);
    sem_post(ready);
    for (atomic_int i = 0;; i++) {
    }
    return NULL;
}

static int (*Ensure)(void);
static void (*Release)(int);
static void *(*SaveThread)(void);
static void (*RestoreThread)(void *);
static int (*Run)(const char *, void *);

static void *python, *none;
static sem_t inside, called, exiting;
static atomic_int worked;

/* Is inside when the exit begins, and goes on in it. */
static void *calls_back(void *unused)
{
    (void)unused;
    int state = Ensure();
    CHECK(Run("x = 1", NULL) == 0);
    void *saved = SaveThread();
    sem_post(&inside);
    sem_wait(&exiting);
    RestoreThread(saved);
    CHECK(Run("x += 1", NULL) == 0);
    worked = 1;
    Release(state);
    return NULL;
}

/* Comes in the middle of the exit, and again and again. */
static void *calls_for_ever(void *unused)
{
    (void)unused;
    for (;;) {
        int state = Ensure();
        Run("x = sum(range(50))", NULL);
        Release(state);
        sem_post(&called);
    }
    return NULL;
}

static void *exit_begins(void *self, void *arguments)
{
    (void)self, (void)arguments;
    sem_post(&exiting);
    ((void (*)(void *))symbol(python, "Py_IncRef"))(none);
    return none;
}

/* --- A thread of Python's, which comes back when Python finalizes */

static sem_t comes_back;
static atomic_int daemon_id, unwound;

static void note_unwinding(void *unused)
{
    (void)unused;
    unwound = 1;
}

static void *be_late(void *self, void *arguments)
{
    (void)self, (void)arguments;
    void *saved = SaveThread();
    pthread_cleanup_push(note_unwinding, NULL);
    daemon_id = (int)syscall(SYS_gettid);
    sem_wait(&comes_back);
    RestoreThread(saved);
    check(0, "a late thread does not come back");
    pthread_cleanup_pop(0);
    return NULL;
}

/* Called when objects go, with the GIL. */
static void *meet_late(void *self, void *arguments)
{
    sem_post(&comes_back);
    while (syscall(SYS_tgkill, getpid(), daemon_id, 0) == 0) {
        sched_yield();
    }
    CHECK(errno == ESRCH);
    CHECK(!unwound);
    (void)self, (void)arguments;
    ((void (*)(void *))symbol(python, "Py_IncRef"))(none);
    return none;
}

/* As in Python.h: one host for all versions. */
static struct {
    const char *name;
    void *(*function)(void *, void *);
    int flags;
    const char *doc;
} methods[] = {
    {"exit_begins", exit_begins, 4 /* METH_NOARGS */, NULL},
    {"be_late", be_late, 4, NULL},
    {"meet_late", meet_late, 4, NULL},
};

static int run(void)
{
    CHECK(is_protected());
    Ensure = (int (*)(void))symbol(python, "PyGILState_Ensure");
    Release = (void (*)(int))symbol(python, "PyGILState_Release");
    SaveThread = (void *(*)(void))symbol(python, "PyEval_SaveThread");
    RestoreThread = (void (*)(void *))symbol(python, "PyEval_RestoreThread");
    Run = (int (*)(const char *, void *))symbol(python, "PyRun_SimpleStringFlags");
    ((void (*)(int))symbol(python, "Py_InitializeEx"))(0);
    /* Not by ctypes, which does not find a Python that was loaded privately. */
    none = symbol(python, "_Py_NoneStruct");
    void *module = ((void *(*)(const char *))symbol(python, "PyImport_AddModule"))("__main__");
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        void *function = ((void *(*)(void *, void *, void *))symbol(python, "PyCFunction_NewEx"))(&methods[i], NULL, NULL);
        CHECK(module != NULL && function != NULL);
        CHECK(((int (*)(void *, const char *, void *))symbol(python, "PyObject_SetAttrString"))(module, methods[i].name, function) == 0);
    }
    CHECK(Run("import atexit, _thread\n"
              "class Last:\n"
              "    def __del__(self, meet_late=meet_late):\n"
              "        meet_late()\n"
              "atexit.register(exit_begins)\n"
              "last = Last()\n"
              "_thread.start_new_thread(be_late, ())\n",
              NULL)
          == 0);

    void *saved = SaveThread();
    pthread_t thread, late;
    CHECK(pthread_create(&thread, NULL, calls_back, NULL) == 0);
    CHECK(pthread_create(&late, NULL, calls_for_ever, NULL) == 0);
    sem_wait(&inside);
    sem_wait(&called);
    while (daemon_id == 0) {
        sched_yield();
    }
    RestoreThread(saved);
    CHECK(((int (*)(void))symbol(python, "Py_FinalizeEx"))() == 0);
    CHECK(worked);
    CHECK(pthread_join(thread, NULL) == 0);
    /* It came too late, and was ended. */
    CHECK(pthread_join(late, NULL) == 0);
    CHECK(daemon_id != 0 && sem_trywait(&comes_back) != 0);
    return 7;
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    const char *how = argv[1], *libpython = argv[2], *plugin = argv[3];
    sem_t ready;
    sem_init(&ready, 0, 0);
    sem_init(&inside, 0, 0);
    sem_init(&called, 0, 0);
    sem_init(&comes_back, 0, 0);
    sem_init(&exiting, 0, 0);
    CHECK(!is_protected());
    if (strcmp(how, "only") == 0) {
        load(libpython, RTLD_LOCAL);
        return 7;
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, restless, &ready) == 0);
    sem_wait(&ready);

    if (strcmp(how, "again") == 0) {
        void *once = load(libpython, RTLD_LOCAL);
        /* Who asks what is protected has Python stay loaded. */
        CHECK(dlclose(once) == 0);
        CHECK(dlopen(libpython, RTLD_LAZY | RTLD_NOLOAD) == NULL);
        CHECK(!is_protected());
    }
    if (strcmp(how, "refused") == 0) {
        CHECK(dlopen(plugin, RTLD_NOW | RTLD_LOCAL) == NULL);
        CHECK(!is_protected());
    }
    if (strcmp(how, "forked") == 0) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child != 0) {
            int status;
            CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
            return WEXITSTATUS(status);
        }
    }
    python = load(strcmp(how, "plugin") == 0 ? plugin : libpython,
                  strcmp(how, "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL);
    int result = run();
    /* The library looks into it until the end. */
    dlclose(python);
    CHECK(dlopen(libpython, RTLD_LAZY | RTLD_NOLOAD) != NULL);
    return result;
}
