"""The weights and the precision of ONNX files."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from study.errors import InputError, SkipError
from study.loading import identify, load_module, tensors
from tests.onnx_models import W, onnx_model


def test_onnx_with_weights_inside_and_beside(tmp_path):
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    onnx.save(made, tmp_path / "in.bin")
    onnx.save_model(
        made, tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0
    )

    inside, beside = identify(tmp_path / "in.bin"), identify(tmp_path / "out.onnx")

    assert inside.artifact == beside.artifact == "onnx/fp32"
    for model in (inside, beside):
        np.testing.assert_array_equal(dict(tensors(model))["w"], W.T)  # outputs first, as a module has them
    assert beside.bytes == (tmp_path / "out.onnx").stat().st_size + (tmp_path / "out.data").stat().st_size
    data = bytearray((tmp_path / "out.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "out.data").write_bytes(data)
    assert identify(tmp_path / "out.onnx").sha256 != beside.sha256
    (tmp_path / "out.data").unlink()
    with pytest.raises(InputError, match=r"out\.data.*beside it"):
        identify(tmp_path / "out.onnx")
    with pytest.raises(SkipError, match="ONNX"):
        load_module(inside)


def test_onnx_data_outside_its_folder_is_refused(tmp_path):
    made = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    onnx.save_model(made, tmp_path / "m.onnx", save_as_external_data=True, location="abcd", size_threshold=0)
    (tmp_path / "m.onnx").write_bytes((tmp_path / "m.onnx").read_bytes().replace(b"abcd", b"../e"))
    with pytest.raises(InputError, match="outside its folder"):
        identify(tmp_path / "m.onnx")


@pytest.mark.parametrize("axis", [0, 1])
def test_quantized_onnx_weights_are_shown_dequantized(tmp_path, axis):
    scale = np.array([0.5, 0.25, 2.0][: W.shape[axis]], dtype=np.float32)
    zero = np.array([1, -2, 3][: W.shape[axis]], dtype=np.int8)
    whole = np.random.default_rng(1).integers(-50, 50, W.shape).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "s", "z"], ["w"], axis=axis),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    made = onnx_model(nodes, {"w_quantized": whole, "s": scale, "z": zero})
    onnx.save(made, tmp_path / "q.onnx")

    model = identify(tmp_path / "q.onnx")
    shown = dict(tensors(model))

    from onnx.reference import ReferenceEvaluator

    oracle = ReferenceEvaluator(made).run(None, {"x": np.eye(3, dtype=np.float32)})[0]
    assert model.artifact == "onnx/int8"
    assert shown.keys() == {"w"}
    np.testing.assert_allclose(shown["w"], oracle.T)


def nibbles(bits):
    return helper.make_node("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft", bits=bits, K=3, N=2)


@pytest.mark.parametrize(
    ("nodes", "weights", "precision"),
    [
        ([helper.make_node("MatMul", ["h", "w"], ["y"])], {"w": W.astype(np.float16)}, "fp16"),
        ([nibbles(bits=4)], {"w": W}, "int4"),
        ([nibbles(bits=8)], {"w": W}, "int8"),
        ([helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])], {"w": W}, "int8"),
    ],
)  # fmt: skip
def test_onnx_precision(tmp_path, nodes, weights, precision):
    onnx.save(onnx_model(nodes, weights), tmp_path / "m.onnx")
    assert identify(tmp_path / "m.onnx").precision == precision


def test_onnx_precision_is_found_in_the_branches_of_an_if(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])],
        "then",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    node = helper.make_node("If", ["w"], ["y"], then_branch=inner, else_branch=inner)
    onnx.save(onnx_model([node], {"w": np.array([True])}), tmp_path / "m.onnx")
    assert identify(tmp_path / "m.onnx").precision == "int8"
