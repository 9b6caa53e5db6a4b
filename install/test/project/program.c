/* Embeds Python, and calls it from a native thread: served while Python runs, refused after. */
#include <pep788.h>
#include <pep788_doctor.h>
#include <pthread.h>
#include <stdio.h>

static PyInterpreterView *view;

static void *served(void *unused)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token == NULL) {
        return unused;
    }
    PyRun_SimpleString("print('served', flush=True)");
    PyThreadState_Release(token);
    return view;
}

static int thread_is_served(void)
{
    pthread_t id;
    void *result;
    return pthread_create(&id, NULL, served, NULL) == 0 && pthread_join(id, &result) == 0
        && result != NULL;
}

int main(void)
{
    char report[1000];
    Py_Initialize();
    view = PyInterpreterView_FromCurrent();
    if (view == NULL) {
        return 1;
    }
    int before, after;
    Py_BEGIN_ALLOW_THREADS
    before = thread_is_served();
    Py_END_ALLOW_THREADS
    if (Pep788_Doctor(report, sizeof report) >= sizeof report) {
        return 2;
    }
    if (Py_FinalizeEx() != 0) {
        return 3;
    }
    after = thread_is_served();
    PyInterpreterView_Close(view);
    puts(after ? "served after the end" : "refused");
    fputs(report, stdout);
    return !before || after;
}
