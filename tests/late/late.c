/* A program without Python, that loads one late, as a host of plugins does.
 *
 *   late LIBPYTHON LIBRARY
 *
 * Then CPython's thread-local variables are not where they are in a program that is linked with it, in
 * each thread elsewhere. Ensure and Release must attach and detach all the same, in several threads. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, PAIRS = 1000 };

static int (*attached)(void);
static void *(*Ensure)(void *);
static void (*Release)(void *);
static void *guard;

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "late: not so: %s\n", what);
        exit(99);
    }
}

#define CHECK(condition) check(condition, #condition)

static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "late: %s\n", dlerror());
        exit(98);
    }
    return library;
}

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    check(found != NULL, name);
    return found;
}

static void nested_pair(void)
{
    void *outer = Ensure(guard);
    CHECK(outer != NULL && attached());
    void *inner = Ensure(guard);
    CHECK(inner != NULL && attached());
    Release(inner);
    CHECK(attached());
    Release(outer);
}

static void *work(void *unused)
{
    (void)unused;
    for (int i = 0; i < PAIRS; i++) {
        CHECK(!attached());
        nested_pair();
    }
    CHECK(!attached());
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    void *python = load(argv[1]);
    attached = symbol(python, "PyGILState_Check");
    void *(*save)(void) = symbol(python, "PyEval_SaveThread");
    void (*restore)(void *) = symbol(python, "PyEval_RestoreThread");
    ((void (*)(void))symbol(python, "Py_Initialize"))();

    void *library = load(argv[2]);
    Ensure = symbol(library, "PyThreadState_Ensure");
    Release = symbol(library, "PyThreadState_Release");
    guard = ((void *(*)(void))symbol(library, "PyInterpreterGuard_FromCurrent"))();
    CHECK(guard != NULL);
    nested_pair();

    void *state = save();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    work(NULL);
    restore(state);
    ((void (*)(void *))symbol(library, "PyInterpreterGuard_Close"))(guard);
    return ((int (*)(void))symbol(python, "Py_FinalizeEx"))();
}
