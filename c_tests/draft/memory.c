/* Without memory: PyInterpreterRef_Get and PyInterpreterWeakRef_Get at the first use, which makes
 * what the library keeps of an interpreter. (For Ensure see ensure.c and stealing.c.) */

#define API_DRAFT
#include "harness.h"

static _Thread_local bool failing;

static void *fail_or_malloc(void *original, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return failing ? NULL : allocator->malloc(allocator->ctx, size);
}

static void *fail_or_calloc(void *original, size_t count, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return failing ? NULL : allocator->calloc(allocator->ctx, count, size);
}

static void *fail_or_realloc(void *original, void *memory, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return failing ? NULL : allocator->realloc(allocator->ctx, memory, size);
}

static void pass_free(void *original, void *memory)
{
    PyMemAllocatorEx *allocator = original;
    allocator->free(allocator->ctx, memory);
}

/* From here on CPython's allocators fail when told to, those of objects too. */
static void replace_allocators(void)
{
    unsetenv("PYTHONMALLOC"); /* has Py_Initialize replace the allocators */
    static const PyMemAllocatorDomain domains[3] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM,
                                                    PYMEM_DOMAIN_OBJ};
    static PyMemAllocatorEx originals[3];
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(domains[i], &originals[i]);
        PyMemAllocatorEx replacement = {&originals[i], fail_or_malloc, fail_or_calloc,
                                        fail_or_realloc, pass_free};
        PyMem_SetAllocator(domains[i], &replacement);
    }
}

static void check_no_memory(void)
{
    CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
    PyErr_Clear();
}

// pythons: gil
SCENARIO(get_at_first_use, "PyInterpreterRef_Get: zero with MemoryError when out of memory; works again when there is some")
{
    replace_allocators();
    py_init();
    failing = true;
    PyInterpreterRef ref = PyInterpreterRef_Get();
    failing = false;
    CHECK_PTR(ref, NULL);
    check_no_memory();
    ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    PyInterpreterRef_Close(ref);
    py_finalize();
}

// pythons: gil
SCENARIO(weak_get_at_first_use, "PyInterpreterWeakRef_Get: zero with MemoryError")
{
    replace_allocators();
    py_init();
    failing = true;
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    failing = false;
    CHECK_PTR(wref, NULL);
    check_no_memory();
    wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    PyInterpreterRef ref;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &ref), 0);
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

static void set_without_memory(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    failing = true;
    int result = PyThreadState_SetDaemon(0);
    failing = false;
    CHECK_INT(result, -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyGILState_Release(legacy);
    log_event("checked");
}

static void check_set_daemon(void)
{
    py_thread_join(thread_start(set_without_memory, NULL));
    expect_log("checked");
    /* Would hang if the attempt that failed had left a reference. */
    py_finalize();
}

// pythons: gil
SCENARIO(set_daemon, "PyThreadState_SetDaemon(0): -1 and no exception when out of memory; nothing is held")
{
    replace_allocators();
    py_init();
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    PyInterpreterRef_Close(ref);
    check_set_daemon();
}

// pythons: gil
SCENARIO(set_daemon_at_first_use, "PyThreadState_SetDaemon(0): the same where it is the first use of the API")
{
    replace_allocators();
    py_init();
    check_set_daemon();
}
