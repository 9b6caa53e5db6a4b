"""onnxruntime's threads, which call back when a run is over. As in python/cpython#87135: a thread that is ended in C++ frames."""
# kind: E
# needs: onnxruntime onnx
# status: 7
import sys
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper

SHAPE = [64, 64]
node = helper.make_node("MatMul", ["a", "a"], ["b"])
graph = helper.make_graph([node], "square", [helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE)],
                          [helper.make_tensor_value_info("b", TensorProto.FLOAT, SHAPE)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
data = {"a": numpy.ones(SHAPE, numpy.float32)}


def again(results=None, user_data=None, error=None):
    session.run_async(None, data, again, None)


for _ in range(4):
    again()
time.sleep(0.05)
sys.exit(7)
