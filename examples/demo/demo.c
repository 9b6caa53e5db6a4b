/* What becomes of native threads that are calling into Python while the program exits?
 *
 * The program embeds Python, lets four native threads call it, and exits: many times, each time in
 * a process of its own, first with PyGILState_Ensure, then with PEP 788. The numbers it prints are
 * those of this run. `make demo` compiles it (see demo.sh) and runs it.
 */
#include <pep788.h>     /* includes Python.h, and so comes first */

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>


/* ---- The migration: one call into Python, before and after ---------------------------------- */

enum outcome { FINISHED, RAISED, REFUSED };

static PyInterpreterView *interpreter;      /* taken by the main thread, used by all threads */

static enum outcome run_callback(void)
{
    return PyRun_SimpleString("callback()") == 0 ? FINISHED : RAISED;
}

static enum outcome call_with_gilstate(void)
{
    PyGILState_STATE state = PyGILState_Ensure();   /* may crash, or never come back */
    enum outcome outcome = run_callback();          /* so may this */
    PyGILState_Release(state);
    return outcome;
}

static enum outcome call_with_pep788(void)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(interpreter);
    if (token == NULL) {
        return REFUSED;                             /* Python is exiting, or gone */
    }
    enum outcome outcome = run_callback();          /* the exit waits for it */
    PyThreadState_Release(token);
    return outcome;
}


/* ---- One exit: a process whose threads know nothing of Python's end -------------------------- */

enum { THREADS = 4, CALLS_BEFORE_EXIT = 5, WIND_UP_MS = 100, HANG_SECONDS = 3, MAX_HANGS = 2 };

static const char SCRIPT[] =
    "import json, os, time\n"
    "log = open(os.devnull, 'w')\n"
    "def callback():\n"
    "    record = json.dumps({'samples': list(range(1000))})\n"
    "    time.sleep(0.001)      # for a device, say\n"
    "    print(record, file=log, flush=True)\n";

/* What lies between a thread and the call: a C function, or a C++ one that may not throw. */
typedef void frame(void (*function)(void *), void *arg);

static void c_frame(void (*function)(void *), void *arg) { function(arg); }
frame noexcept_frame;       /* noexcept_frame.cc */

/* What is counted. The first three are the outcomes of a call. */
enum count {
    STARTED = REFUSED + 1, FINISHED_DURING_EXIT, RETURNED, STUCK_LOCKS,
    EXITS, NORMAL, CRASHED, HUNG, COUNTS
};

/* A row of the table. It lives in shared memory, where the counts outlast a crash. */
struct row {
    const char *label;
    bool pep788;
    frame *frame;
    _Atomic long count[COUNTS];
    long crashed_by[NSIG];      /* signal; 0: an exit status other than 0 */
};

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;       /* held during each call, as C libraries do */
    struct row *row;
};

static sem_t warmed_up;
static _Atomic bool exiting, stop;

static void handle_event(void *arg)
{
    struct worker *worker = arg;
    pthread_mutex_lock(&worker->lock);
    worker->row->count[STARTED]++;
    enum outcome outcome = worker->row->pep788 ? call_with_pep788() : call_with_gilstate();
    worker->row->count[outcome]++;
    worker->row->count[FINISHED_DURING_EXIT] += exiting && outcome == FINISHED;
    pthread_mutex_unlock(&worker->lock);
}

static void *handle_events(void *arg)
{
    struct worker *worker = arg;
    for (int calls = 1; !stop; calls++) {
        worker->row->frame(handle_event, worker);
        if (calls == CALLS_BEFORE_EXIT) {
            sem_post(&warmed_up);
        }
        struct timespec until_next_event = {.tv_nsec = random() % 4000000};
        nanosleep(&until_next_event, NULL);
    }
    worker->row->count[RETURNED]++;
    return NULL;
}

static int embed_and_exit(struct row *row)
{
    struct worker workers[THREADS];

    Py_InitializeEx(0);
    if (PyRun_SimpleString(SCRIPT) < 0) {
        return EXIT_FAILURE;
    }
    if (row->pep788 && (interpreter = PyInterpreterView_FromCurrent()) == NULL) {
        PyErr_Print();
        return EXIT_FAILURE;
    }

    PyThreadState *main_thread = PyEval_SaveThread();
    sem_init(&warmed_up, 0, 0);
    for (int i = 0; i < THREADS; i++) {
        workers[i].row = row;
        pthread_mutex_init(&workers[i].lock, NULL);
        pthread_create(&workers[i].thread, NULL, handle_events, &workers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        sem_wait(&warmed_up);
    }
    PyEval_RestoreThread(main_thread);

    alarm(HANG_SECONDS);        /* should the exit hang, SIGALRM ends it */
    exiting = true;
    int status = Py_FinalizeEx() < 0 ? EXIT_FAILURE : EXIT_SUCCESS;

    /* Python is gone, the threads may go too. Who holds a lock now will never let go of it. */
    stop = true;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_nsec += WIND_UP_MS * 1000000;
    deadline.tv_sec += deadline.tv_nsec / 1000000000;
    deadline.tv_nsec %= 1000000000;
    for (int i = 0; i < THREADS; i++) {
        if (pthread_mutex_timedlock(&workers[i].lock, &deadline) == 0) {
            pthread_mutex_unlock(&workers[i].lock);
            pthread_join(workers[i].thread, NULL);
        } else {
            row->count[STUCK_LOCKS]++;
        }
    }
    if (row->pep788) {
        PyInterpreterView_Close(interpreter);
    }
    return status;
}


/* ---- Many exits, and the table --------------------------------------------------------------- */

static void run(struct row *row, int exits)
{
    for (int i = 0; i < exits && row->count[HUNG] < MAX_HANGS; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(10 * HANG_SECONDS);   /* for a slow start; the exit has its own */
            exit(embed_and_exit(row));
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) < 0) {
            perror("demo");
            exit(EXIT_FAILURE);
        }
        row->count[EXITS]++;
        if (status == 0) {
            row->count[NORMAL]++;
        } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
            row->count[HUNG]++;
        } else {
            row->count[CRASHED]++;
            row->crashed_by[WIFSIGNALED(status) ? WTERMSIG(status) : 0]++;
        }
    }
}

static long cut_off(const struct row *row)
{
    return row->count[STARTED] - row->count[FINISHED] - row->count[RAISED] - row->count[REFUSED];
}

static long lost(const struct row *row)
{
    return row->count[EXITS] * THREADS - row->count[RETURNED];
}

static void print(const struct row *row)
{
    printf("%-19s %5ld %6ld %7ld %4ld  %8ld %7ld %7ld   %7ld\n", row->label, row->count[EXITS],
           row->count[NORMAL], row->count[CRASHED], row->count[HUNG], row->count[FINISHED],
           cut_off(row), row->count[REFUSED], lost(row));
    for (int i = 0; i < NSIG; i++) {
        if (row->crashed_by[i] > 0) {
            printf("%34ld x %s\n", row->crashed_by[i],
                   i == 0 ? "error status" : i == SIGABRT ? "SIGABRT" : i == SIGSEGV ? "SIGSEGV"
                                                                      : strsignal(i));
        }
    }
    if (row->count[RAISED] > 0) {
        printf("%49ld raised an exception\n", row->count[RAISED]);
    }
}

static bool clean(const struct row *row)
{
    return row->count[NORMAL] == row->count[EXITS] && cut_off(row) == 0 && lost(row) == 0
           && row->count[RAISED] == 0;
}

static void conclude(const struct row *legacy, const struct row *pep788)
{
    if (clean(legacy)) {
        printf("PyGILState_Ensure came through unharmed this time.\n");
    } else {
        printf("PyGILState_Ensure: of %ld exits %ld crashed and %ld hung. Of %ld threads %ld were\n"
               "lost, and %ld locks they held were still locked when Python was gone.\n",
               legacy->count[EXITS], legacy->count[CRASHED], legacy->count[HUNG],
               legacy->count[EXITS] * THREADS, lost(legacy), legacy->count[STUCK_LOCKS]);
    }
    if (clean(pep788)) {
        printf("PEP 788: all %ld exits were clean. All %ld calls that got in were finished, %ld\n"
               "of them during the exit; %ld came too late and were told so; no thread was lost.\n",
               pep788->count[EXITS], pep788->count[FINISHED], pep788->count[FINISHED_DURING_EXIT],
               pep788->count[REFUSED]);
    } else {
        printf("PEP 788: NOT CLEAN. Of %ld exits %ld crashed and %ld hung;\n"
               "%ld calls were cut off, %ld raised an exception, %ld threads were lost.\n",
               pep788->count[EXITS], pep788->count[CRASHED], pep788->count[HUNG],
               cut_off(pep788), pep788->count[RAISED], lost(pep788));
    }
}

int main(int argc, char **argv)
{
    static const struct row plan[] = {
        {.label = "PyGILState_Ensure", .pep788 = false, .frame = c_frame},
#ifdef HAVE_CXX
        {.label = " under C++ noexcept", .pep788 = false, .frame = noexcept_frame},
#endif
        {.label = "PEP 788", .pep788 = true, .frame = c_frame},
#ifdef HAVE_CXX
        {.label = " under C++ noexcept", .pep788 = true, .frame = noexcept_frame},
#endif
    };
    enum { ROWS = sizeof plan / sizeof *plan };
    int exits = argc > 1 ? atoi(argv[1]) : 20;
    struct row *rows = mmap(NULL, sizeof plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                            -1, 0);
    if (exits < 1 || rows == MAP_FAILED) {
        fprintf(stderr, "usage: demo [EXITS]\n");
        return EXIT_FAILURE;
    }
    memcpy(rows, plan, sizeof plan);

    printf("CPython %.*s: %d native threads call into Python while the program exits\n"
           "(Py_FinalizeEx, then up to %d ms for the threads to end, then exit).\n\n"
           "                    ---------- exits ----------  --------- calls ---------   threads\n"
           "                    total normal crashed hung    finished cut off refused      lost\n",
           (int)strcspn(Py_GetVersion(), " "), Py_GetVersion(), THREADS, WIND_UP_MS);
    struct row legacy = {0}, pep788 = {0};
    for (int i = 0; i < ROWS; i++) {
        run(&rows[i], exits);
        print(&rows[i]);
        struct row *sum = rows[i].pep788 ? &pep788 : &legacy;
        for (int j = 0; j < COUNTS; j++) {
            sum->count[j] += rows[i].count[j];
        }
    }
    printf("\n");
    conclude(&legacy, &pep788);
    return clean(&pep788) ? EXIT_SUCCESS : EXIT_FAILURE;
}
