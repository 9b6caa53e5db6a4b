# FromCurrent in a finalizer raises PythonFinalizationError (3.13+) or RuntimeError, which is its base.
# expect: stdout "RuntimeError raised"
import builtins
import os
import worker

expected = getattr(builtins, "PythonFinalizationError", RuntimeError)


class Last:
    def __del__(self, work=worker.work, write=os.write, expected=expected, kind=type):
        try:
            work(lambda: None)
        except RuntimeError as error:
            if kind(error) is expected:
                write(1, b"RuntimeError raised\n")


last = Last()
