/* Processes without a Python in them: preloaded there, the library is inert. */
// macos-file: no, what is preloaded there does not come first for names
// link: no-python

#include "harness.h"

#include <dlfcn.h>

SCENARIO(true_stays_true, "Preloaded into a program without Python the library does nothing and says nothing")
{
    /* The shell and what it runs are preloaded too; the loader would complain on stderr. */
    CHECK_INT(system("test -z \"$(/bin/true 2>&1)\""), 0);
    CHECK(system("/bin/false") != 0);
}

SCENARIO(it_is_there, "It is really loaded: a function of it can be found")
{
    CHECK(dlsym(RTLD_DEFAULT, "PyInterpreterView_FromMain") != NULL);
    CHECK(dlsym(RTLD_DEFAULT, "PyInterpreterState_Get") == NULL);
}

// expect: signal SIGABRT
// expect: stderr "PyInterpreterGuard_FromCurrent"
SCENARIO(a_call_says_so, "Called without a Python in the process, a function ends it with a message that names the function")
{
    void *(*from_current)(void);
    *(void **)&from_current = dlsym(RTLD_DEFAULT, "PyInterpreterGuard_FromCurrent");
    CHECK(from_current != NULL);
    from_current();
}

static void set_started(void *argument)
{
    event_set((event *)argument);
}

SCENARIO(threads_come_and_go, "Threads start and end with it loaded as without")
{
    for (int i = 0; i < 100; i++) {
        event started = EVENT_INIT;
        pthread_t thread = thread_start(set_started, &started);
        event_wait(&started);
        thread_join(thread);
    }
}
