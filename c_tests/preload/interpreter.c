/* The interpreter itself, preloaded, and Python code that looks for the API in its process. */

// macos-file: no, what is preloaded there does not come first for names

#include "harness.h"

SCENARIO(ctypes, "Python code finds the functions where those of the interpreter are, in ctypes.pythonapi")
{
    py_init();
    run("import ctypes\n"
        "def function(name, result, *arguments):\n"
        "    function = getattr(ctypes.pythonapi, name)\n"
        "    function.restype, function.argtypes = result, arguments\n"
        "    return function\n"
        "pointer = ctypes.c_void_p\n"
        "view = function('PyInterpreterView_FromMain', pointer)()\n"
        "assert view\n"
        "guard = function('PyInterpreterGuard_FromView', pointer, pointer)(view)\n"
        "assert guard\n"
        "token = function('PyThreadState_Ensure', pointer, pointer)(guard)\n"
        "assert token\n"
        "function('PyThreadState_Release', None, pointer)(token)\n"
        "function('PyInterpreterGuard_Close', None, pointer)(guard)\n"
        "function('PyInterpreterView_Close', None, pointer)(view)");
    py_finalize();
}

/* The executable of this Python, as run() text: `python(code)` runs it with the library preloaded,
 * `python(code, None)` without. */
static const char find_python[] =
    "import os, subprocess, sys\n"
    "executable = os.path.join(sys.base_prefix, 'bin', 'python%d.%d' % sys.version_info[:2] + sys.abiflags)\n"
    "assert os.path.exists(executable), executable\n"
    "def python(code, library=os.environ['LD_PRELOAD']):\n"
    "    environment = {name: value for name, value in os.environ.items() if name != 'LD_PRELOAD'}\n"
    "    if library:\n"
    "        environment['LD_PRELOAD'] = library\n"
    "    done = subprocess.run([executable, '-c', code], env=environment, capture_output=True)\n"
    "    return done.returncode, done.stdout, done.stderr\n";

SCENARIO(an_interpreter_that_does_not_use_it, "An interpreter that does not use the library ends as ever, however it ends")
{
    py_init();
    run(find_python);
    run("for code in (\n"
        "    'print(1 + 1)',\n"
        "    'import sys; sys.exit(3)',\n"
        "    'import os; os._exit(4)',\n"
        "    '1 / 0',\n"
        "    'import os; os.abort()',\n"
        "    'import threading; threading.Thread(target=print, args=[5]).start()',\n"
        "    'import atexit; atexit.register(print, 6)',\n"
        "    'import os; id = os.fork(); print(id and os.waitpid(id, 0)[1])',\n"
        "    'import multiprocessing as m; p = m.get_context(\"fork\").Process(target=print); p.start(); p.join()',\n"
        "):\n"
        "    preloaded, plain = python(code), python(code, None)\n"
        "    assert preloaded == plain, (code, preloaded, plain)\n");
    py_finalize();
}

SCENARIO(an_interpreter_that_uses_it, "In a preloaded interpreter a guard is there to be had, and to be closed before the end")
{
    py_init();
    run(find_python);
    run("code = '''\n"
        "import atexit, ctypes, threading\n"
        "api = ctypes.pythonapi\n"
        "api.PyInterpreterGuard_FromCurrent.restype = ctypes.c_void_p\n"
        "guard = ctypes.c_void_p(api.PyInterpreterGuard_FromCurrent())\n"
        "assert guard\n"
        "exiting = threading.Event()\n"
        "def close():\n"
        "    exiting.wait()\n"
        "    print(\"closed\")\n"
        "    api.PyInterpreterGuard_Close(guard)\n"
        "threading.Thread(target=close, daemon=True).start()\n"
        "atexit.register(exiting.set)\n"
        "'''\n"
        "done = python(code)\n"
        "assert done == (0, b'closed\\n', b''), done\n");
    py_finalize();
}
