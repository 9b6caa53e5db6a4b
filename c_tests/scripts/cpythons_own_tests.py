# CPython's own tests of PEP 788, in its module for tests, pass; also with the library before it.
# pythons: >=3.15
# expect: stdout "7 passed"
import _testcapi

OF_PEP_788 = "test_interp_view_", "test_interpreter_guards", "test_thread_state_ensure"

tests = [name for name in dir(_testcapi) if name.startswith(OF_PEP_788)]
for name in tests:
    print(name, flush=True)
    getattr(_testcapi, name)()
print(len(tests), "passed", flush=True)
