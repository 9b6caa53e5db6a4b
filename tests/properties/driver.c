/* Carries out a script, one command a line, and prints a line for each: what the call returned, and
 * what is attached to its thread afterwards. `model.rs` writes the scripts and knows the answers.
 *
 *     driver <library> <script>        a command: <actor> <name> <numbers...>
 *
 * Actor 0 is the main thread, the others are threads of C. Only one of them acts at a time; between
 * their commands they give up the GIL as any thread does that waits. The exception is an actor that ends
 * an interpreter while guards are out: it is left waiting, and asked for its result later.
 *
 * The library is not linked but opened, so that its functions are the ones called also where the
 * interpreter has some of the same names. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { ACTORS = 3, SLOTS = 512, DEPTH = 64, RESULT = 256 };

/* --- The library ------------------------------------------------------------------------------ */

typedef void *handle;

static struct {
    handle (*guard)(void), (*view)(void), (*view_main)(void), (*ref)(void), (*weak)(void);
    handle (*guard_view)(handle), (*dup)(handle), (*weak_dup)(handle);
    void (*guard_close)(handle), (*view_close)(handle), (*ref_close)(handle), (*weak_close)(handle);
    int (*ref_main)(handle *), (*weak_strong)(handle, handle *);
    int (*as_strong)(PyInterpreterState *, handle *);
    PyInterpreterState *(*as_interpreter)(handle);
    void *(*ensure)(handle), *(*ensure_view)(handle);
    void (*release)(void *), (*draft_release)(void);
    int (*draft_ensure)(handle), (*ensure_stealing)(handle);
    int (*get_daemon)(void), (*set_daemon)(int);
} api;

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "driver: %s: %s\n", what, detail);
    fflush(NULL);
    _exit(70);
}

static void load(const char *path)
{
    static const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"PyInterpreterGuard_FromCurrent", &api.guard},
        {"PyInterpreterGuard_FromView", &api.guard_view},
        {"PyInterpreterGuard_Close", &api.guard_close},
        {"PyInterpreterView_FromCurrent", &api.view},
        {"PyInterpreterView_FromMain", &api.view_main},
        {"PyInterpreterView_Close", &api.view_close},
        {"PyThreadState_Ensure", &api.ensure},
        {"PyThreadState_EnsureFromView", &api.ensure_view},
        {"PyThreadState_Release", &api.release},
        {"PyInterpreterRef_Get", &api.ref},
        {"PyInterpreterRef_Main", &api.ref_main},
        {"PyInterpreterState_AsStrong", &api.as_strong},
        {"PyInterpreterRef_AsInterpreter", &api.as_interpreter},
        {"PyInterpreterRef_Dup", &api.dup},
        {"PyInterpreterRef_Close", &api.ref_close},
        {"PyInterpreterWeakRef_Get", &api.weak},
        {"PyInterpreterWeakRef_Dup", &api.weak_dup},
        {"PyInterpreterWeakRef_AsStrong", &api.weak_strong},
        {"PyInterpreterWeakRef_Close", &api.weak_close},
        {"Pep788_Ensure", &api.draft_ensure},
        {"Pep788_EnsureStealing", &api.ensure_stealing},
        {"Pep788_Release", &api.draft_release},
        {"PyThreadState_GetDaemon", &api.get_daemon},
        {"PyThreadState_SetDaemon", &api.set_daemon},
    };
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL) {
        fail("dlopen", dlerror());
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *function = dlsym(library, functions[i].name);
        if (function == NULL) {
            fail("dlsym", dlerror());
        }
        memcpy(functions[i].place, &function, sizeof function);
    }
}

/* --- What the actors share -------------------------------------------------------------------- */

static handle handles[SLOTS];
static PyInterpreterState *interpreters[SLOTS];
static PyThreadState *sub_states[SLOTS];

/* What an actor undoes later. */
union frame {
    void *token;
    PyThreadState *state;
    PyGILState_STATE gilstate;
};

struct actor {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    const char *command; /* to be carried out, or NULL */
    bool done;
    char result[RESULT];
    union frame frames[DEPTH];
    int depth;
};

static struct actor actors[ACTORS];

/* The thread state that the calling thread is attached with, or NULL. */
static PyThreadState *attached(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#elif PY_VERSION_HEX >= 0x030C0000
    return _PyThreadState_UncheckedGet();
#else
    PyThreadState *state = _PyThreadState_UncheckedGet();
    return state != NULL && state->thread_id == PyThread_get_thread_ident() ? state : NULL;
#endif
}

/* A handle, or what the failure was. */
static const char *said(handle made)
{
    static _Thread_local char text[RESULT];
    if (made != NULL) {
        return "ok";
    }
    if (Py_IsInitialized() && attached() != NULL && PyErr_Occurred()) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        snprintf(text, sizeof text, "null:%s", ((PyTypeObject *)type)->tp_name);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return text;
    }
    return "null";
}

/* --- The exit --------------------------------------------------------------------------------- */

static bool asks;
static char after_the_wait[RESULT];

/* When all exit callbacks have run, and the wait is over: nothing is given any more. If the library was not used
 * before, there was no wait, and this would be its first use. */
static void ask_when_closed(PyObject *capsule)
{
    (void)capsule;
    if (!asks) {
        return;
    }
    char guard[RESULT];
    snprintf(guard, sizeof guard, "%s", said(api.guard()));
    handle view = api.view();
    handle main_view = api.view_main();
    handle strong = NULL;
    int named = api.ref_main(&strong);
    snprintf(after_the_wait, sizeof after_the_wait, "%.60s,%s,%s,%s,%d", guard, said(view),
             said(api.guard_view(view)), said(api.ensure_view(main_view)), named);
    api.view_close(view);
    api.view_close(main_view);
}

static atomic_bool exit_begun;

static PyObject *note_exit(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    atomic_store(&exit_begun, true);
    Py_RETURN_NONE;
}

static PyMethodDef note_method = {"note_exit", note_exit, METH_NOARGS, NULL};

static void at_exit(PyMethodDef *method, PyObject *self)
{
    PyObject *function = PyCFunction_New(method, self);
    PyObject *module = PyImport_ImportModule("atexit");
    PyObject *result = PyObject_CallMethod(module, "register", "O", function);
    if (result == NULL) {
        fail("atexit.register", method->ml_name);
    }
    Py_DECREF(result);
    Py_DECREF(module);
    Py_DECREF(function);
}

/* Registered before the library's callback, so called after it, and given up after what that leaves to be
 * given up: CPython does not call what is registered while exit callbacks run. */
static PyObject *have_it_asked(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyObject *capsule = PyCapsule_New(&asks, NULL, ask_when_closed);
    at_exit(&note_method, capsule);
    Py_DECREF(capsule);
    Py_RETURN_NONE;
}

static PyMethodDef ask_method = {"have_it_asked", have_it_asked, METH_NOARGS, NULL};

/* For whoever waits until the exit refuses views. */
static handle knock_view;

/* --- Commands --------------------------------------------------------------------------------- */

static void new_interpreter(int slot, bool isolated)
{
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *state = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    if (isolated) {
        PyInterpreterConfig config = {
            .use_main_obmalloc = 0,
            .allow_fork = 0,
            .allow_exec = 0,
            .allow_threads = 1,
            .allow_daemon_threads = 0,
            .check_multi_interp_extensions = 1,
            .gil = PyInterpreterConfig_OWN_GIL,
        };
        PyStatus status = Py_NewInterpreterFromConfig(&state, &config);
        if (PyStatus_Exception(status)) {
            fail("Py_NewInterpreterFromConfig", status.err_msg);
        }
    }
#else
    (void)isolated;
#endif
    if (state == NULL) {
        state = Py_NewInterpreter();
    }
    if (state == NULL) {
        fail("Py_NewInterpreter", "failed");
    }
    sub_states[slot] = state;
    interpreters[slot] = PyThreadState_GetInterpreter(state);
    PyEval_SaveThread();
    PyEval_RestoreThread(own);
}

static void end_interpreter(int slot, bool announce)
{
    PyThreadState *own = PyEval_SaveThread();
    PyEval_RestoreThread(sub_states[slot]);
    if (announce) {
        knock_view = api.view();
        at_exit(&note_method, NULL);
    }
    Py_EndInterpreter(sub_states[slot]);
    /* Not PyEval_RestoreThread: where there is one GIL, it is still held. */
    PyThreadState_Swap(own);
}

static int finalize(bool announce)
{
    if (announce) {
        knock_view = api.view();
        at_exit(&note_method, NULL);
    }
    return Py_FinalizeEx();
}

/* Carries out `name`; what it returned goes to `result`. */
static void act(struct actor *self, const char *name, int a, int b, char *result)
{
#define IS(word) (strcmp(name, word) == 0)
#define SAY(...) snprintf(result, RESULT, __VA_ARGS__)
#define PUSH(field, value) (self->frames[self->depth++].field = (value))
#define POP(field) (self->frames[--self->depth].field)
    if (self->depth >= DEPTH) {
        fail("too deep", name);
    }
    SAY("-");
    if (IS("init")) {
        Py_InitializeEx(0);
        interpreters[0] = PyInterpreterState_Get();
        after_the_wait[0] = '\0';
        if (a) {
            at_exit(&ask_method, NULL);
        }
    } else if (IS("finalize")) {
        asks = a;
        int status = finalize(b);
        SAY("%d,%.200s", status, after_the_wait);
    } else if (IS("sub_new")) {
        new_interpreter(a, b);
    } else if (IS("sub_end")) {
        end_interpreter(a, b);
    } else if (IS("guard")) {
        SAY("%s", said(handles[a] = api.guard()));
    } else if (IS("ref")) {
        SAY("%s", said(handles[a] = api.ref()));
    } else if (IS("view")) {
        SAY("%s", said(handles[a] = api.view()));
    } else if (IS("weak")) {
        SAY("%s", said(handles[a] = api.weak()));
    } else if (IS("view_main")) {
        SAY("%s", said(handles[a] = api.view_main()));
    } else if (IS("guard_view")) {
        SAY("%s", said(handles[b] = api.guard_view(handles[a])));
    } else if (IS("guard_close")) {
        api.guard_close(handles[a]);
    } else if (IS("view_close")) {
        api.view_close(handles[a]);
    } else if (IS("ref_close")) {
        api.ref_close(handles[a]);
    } else if (IS("weak_close")) {
        api.weak_close(handles[a]);
    } else if (IS("dup")) {
        SAY("%s", said(handles[b] = api.dup(handles[a])));
    } else if (IS("weak_dup")) {
        SAY("%s", said(handles[b] = api.weak_dup(handles[a])));
    } else if (IS("weak_strong")) {
        int status = api.weak_strong(handles[a], &handles[b]);
        SAY("%d,%s", status, said(handles[b]));
    } else if (IS("ref_main")) {
        int status = api.ref_main(&handles[a]);
        SAY("%d,%s", status, said(handles[a]));
    } else if (IS("as_strong")) {
        int status = api.as_strong(interpreters[a], &handles[b]);
        SAY("%d,%s", status, said(handles[b]));
    } else if (IS("as_interpreter")) {
        SAY("%d", api.as_interpreter(handles[a]) == interpreters[b]);
    } else if (IS("ensure")) {
        SAY("%s", said(PUSH(token, api.ensure(handles[a]))));
    } else if (IS("ensure_view")) {
        void *token = api.ensure_view(handles[a]);
        SAY("%s", said(token));
        if (token != NULL) {
            PUSH(token, token);
        }
    } else if (IS("draft_ensure")) {
        SAY("%d", api.draft_ensure(handles[a]));
    } else if (IS("ensure_stealing")) {
        SAY("%d", api.ensure_stealing(handles[a]));
    } else if (IS("release")) {
        api.release(POP(token));
    } else if (IS("draft_release")) {
        api.draft_release();
    } else if (IS("save")) {
        PUSH(state, PyEval_SaveThread());
    } else if (IS("restore")) {
        PyEval_RestoreThread(POP(state));
    } else if (IS("swap")) {
        PUSH(state, PyEval_SaveThread());
        PyEval_RestoreThread(sub_states[a]);
    } else if (IS("swap_back")) {
        PyEval_SaveThread();
        PyEval_RestoreThread(POP(state));
    } else if (IS("gil")) {
        PUSH(gilstate, PyGILState_Ensure());
    } else if (IS("ungil")) {
        PyGILState_Release(POP(gilstate));
    } else if (IS("get_daemon")) {
        SAY("%d", api.get_daemon());
    } else if (IS("set_daemon")) {
        SAY("%d", api.set_daemon(a));
    } else {
        fail("no such command", name);
    }
}

/* A command, and what is attached after it: the interpreter's number and the thread state's. A name
 * with a dot behind is the last one before an exit goes on: nothing may be looked at then. */
static PyThreadState *carry_out(struct actor *self, const char *command, char *answer)
{
    char name[32], result[RESULT];
    int a = 0, b = 0;
    sscanf(command, "%31s %d %d", name, &a, &b);
    char *dot = strchr(name, '.');
    if (dot != NULL) {
        *dot = '\0';
    }
    act(self, name, a, b, result);
    PyThreadState *state = dot == NULL ? attached() : NULL;
    if (state != NULL) {
        snprintf(answer, RESULT, "%.200s %lld:%llu", result,
                 (long long)PyInterpreterState_GetID(PyThreadState_GetInterpreter(state)),
                 (unsigned long long)PyThreadState_GetID(state));
    } else {
        snprintf(answer, RESULT, "%.200s -", result);
    }
    return state;
}

static void *live(void *argument)
{
    struct actor *self = argument;
    PyThreadState *state = NULL;
    for (;;) {
        pthread_mutex_lock(&self->mutex);
        while (self->command == NULL) {
            pthread_cond_wait(&self->changed, &self->mutex);
        }
        const char *command = self->command;
        pthread_mutex_unlock(&self->mutex);
        if (state != NULL) {
            PyEval_RestoreThread(state);
        }
        char answer[RESULT];
        state = carry_out(self, command, answer);
        if (state != NULL) {
            PyEval_SaveThread();
        }
        pthread_mutex_lock(&self->mutex);
        memcpy(self->result, answer, sizeof answer);
        self->command = NULL;
        self->done = true;
        pthread_cond_broadcast(&self->changed);
        pthread_mutex_unlock(&self->mutex);
    }
    return NULL;
}

/* --- The director ----------------------------------------------------------------------------- */

static void order(struct actor *actor, const char *command)
{
    pthread_mutex_lock(&actor->mutex);
    actor->command = command;
    actor->done = false;
    pthread_cond_broadcast(&actor->changed);
    pthread_mutex_unlock(&actor->mutex);
}

static void await(struct actor *actor)
{
    pthread_mutex_lock(&actor->mutex);
    while (!actor->done) {
        pthread_cond_wait(&actor->changed, &actor->mutex);
    }
    pthread_mutex_unlock(&actor->mutex);
}

static bool is_done(struct actor *actor)
{
    pthread_mutex_lock(&actor->mutex);
    bool done = actor->done;
    pthread_mutex_unlock(&actor->mutex);
    return done;
}

/* Until the exit refuses views, if it is to: `PEP788_DRAIN_GRACE_MS` is 0 then. */
static void await_exit(bool refuses)
{
    while (!atomic_load(&exit_begun)) {
        sched_yield();
    }
    handle guard;
    while (refuses && (guard = api.guard_view(knock_view)) != NULL) {
        api.guard_close(guard);
        sched_yield();
    }
    api.view_close(knock_view);
    atomic_store(&exit_begun, false);
}

static void *direct(void *script)
{
    char line[RESULT];
    const char *grace = getenv("PEP788_DRAIN_GRACE_MS");
    bool refuses = grace != NULL && strcmp(grace, "0") == 0;
    bool waiting = false; /* actor 0, in an exit */
    while (fgets(line, sizeof line, script) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *rest;
        int number = (int)strtol(line, &rest, 10);
        struct actor *actor = &actors[number];
        if (strcmp(rest, " join") == 0) {
            await(actor);
            waiting = false;
        } else if (strstr(rest, " 1!") != NULL) {
            /* An exit that waits. */
            static char ending[RESULT];
            memcpy(ending, rest, strlen(rest) + 1);
            order(actor, ending);
            await_exit(refuses);
            waiting = true;
            puts("begun -");
            continue;
        } else {
            order(actor, rest);
            await(actor);
        }
        if (waiting && strchr(rest, '.') == NULL && is_done(&actors[0])) {
            puts("the exit did not wait");
            fflush(stdout);
            _exit(71);
        }
        puts(actor->result);
        fflush(stdout);
    }
    fflush(NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fail("usage", "driver <library> <script>");
    }
    FILE *script = fopen(argv[2], "r");
    if (script == NULL) {
        fail("fopen", argv[2]);
    }
    load(argv[1]);
    pthread_t thread;
    for (int i = 0; i < ACTORS; i++) {
        pthread_mutex_init(&actors[i].mutex, NULL);
        pthread_cond_init(&actors[i].changed, NULL);
        if (i != 0 && pthread_create(&thread, NULL, live, &actors[i]) != 0) {
            fail("pthread_create", "failed");
        }
    }
    if (pthread_create(&thread, NULL, direct, script) != 0) {
        fail("pthread_create", "failed");
    }
    live(&actors[0]);
}
