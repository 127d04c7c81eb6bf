"""Small ONNX models written by hand."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def onnx_model(nodes, initializers, opset=21, shape=("b", 3)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    )
    made.ir_version = 10
    return made


W = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
