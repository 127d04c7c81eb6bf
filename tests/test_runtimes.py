"""Each runtime gives the numbers of a plain call, takes what people feed it, and says what does not fit."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from study.errors import InputError
from study.loading.live import live_model
from study.loading.sniff import identify
from study.runtime import Runtimes, open_runtime, runtime_of, to_numpy
from study.subject import Machine, Model

MACHINE = Machine(threads=1)
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.drop(self.norm(self.a(x)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    module = Net()
    module(torch.randn(32, 3))
    return module.eval()


def as_file(net, form, folder, *, fixed=None):
    """The net in a format, with a dynamic batch axis or ``fixed`` rows."""
    example = torch.randn(fixed or 2, 3)
    path = folder / f"net-{form}-{fixed}"
    if form == "pytorch":
        return live_model(net)
    if form == "torchscript":
        torch.jit.script(net).save(str(path))
    elif form == "exported":
        shapes = None if fixed else ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=shapes), path)
    else:
        onnx.save(linear_onnx(net, fixed), path)
    return identify(path)


def linear_onnx(net, fixed=None):
    scale = (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()).detach()
    weight = (net.a.weight.detach() * scale[:, None]).T.numpy()
    bias = ((net.a.bias.detach() - net.norm.running_mean) * scale + net.norm.bias.detach()).numpy()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["score"])]
    return made(nodes, {"w": weight, "b": bias}, [("x", TensorProto.FLOAT, (fixed or "n", 3))], ["score"])


def made(nodes, weights, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


FORMATS = ["pytorch", "torchscript", "exported", "onnx"]


@pytest.mark.parametrize("fixed", [None, 1, 2, 5])
@pytest.mark.parametrize("form", FORMATS)
def test_the_same_numbers_as_a_plain_call(net, tmp_path, form, fixed):
    model = as_file(net, form, tmp_path, fixed=fixed)
    with torch.no_grad():
        expected = net(torch.from_numpy(ROWS)).numpy()

    with open_runtime(model, MACHINE) as run:
        outputs = run({"anything": ROWS})
        again = run({"anything": torch.from_numpy(ROWS).double()})
        seven = run({"x": np.concatenate([ROWS, ROWS[:2]])})

    assert list(outputs) == list(run.outputs) == (["score"] if form == "onnx" else ["output"])
    assert [spec.name for spec in run.inputs] == ["x"]
    for got, want in (
        (outputs, expected),
        (again, expected),
        (seven, np.concatenate([expected, expected[:2]])),
    ):
        np.testing.assert_allclose(to_numpy(next(iter(got.values()))), want, atol=1e-6)
    assert run.provider == ("CPUExecutionProvider" if form == "onnx" else "cpu")
    if fixed and form in ("exported", "onnx"):
        assert run.inputs[0].shape == (fixed, 3)
        assert run.fixed_batch == fixed
    elif form in ("exported", "onnx"):
        assert run.inputs[0].shape == (None, 3)
        assert run.inputs[0].dtype == "float32"


@pytest.mark.parametrize("fixed", [None, 2])
@pytest.mark.parametrize("form", FORMATS)
def test_bind_runs_the_whole_batch_each_time(net, tmp_path, form, fixed):
    with open_runtime(as_file(net, form, tmp_path, fixed=fixed), MACHINE) as run:
        call = run.bind({"x": ROWS})
        calls = []
        if form == "onnx":
            session = run._session

            class Counting:
                def run_with_iobinding(self, binding):
                    calls.append(1)
                    session.run_with_iobinding(binding)

            run._session = Counting()
            run._session.io_binding = session.io_binding
            run._session.run = session.run
            call = run.bind({"x": ROWS})
        elif form == "pytorch":
            run.module.register_forward_hook(lambda *_: calls.append(1))
        assert call() is None
        assert call() is None
        if form == "onnx":
            assert len(calls) == 2 * (3 if fixed else 1)
        elif form == "pytorch":
            assert len(calls) == 2


@pytest.mark.parametrize("form", ["pytorch", "torchscript", "exported"])
@pytest.mark.parametrize("fixed", [None, 2])
def test_gradients_reach_inputs_and_not_parameters(net, tmp_path, form, fixed):
    with open_runtime(as_file(net, form, tmp_path, fixed=fixed), MACHINE) as run:
        rows = torch.from_numpy(ROWS).requires_grad_()
        run.as_torch()(rows).sum().backward()
        assert all(p.grad is None and not p.requires_grad for p in run.module.parameters())
    theirs = torch.from_numpy(ROWS).requires_grad_()
    net(theirs).sum().backward()
    net.zero_grad()
    torch.testing.assert_close(rows.grad, theirs.grad)


def test_as_torch_of_onnx_gives_numbers_without_gradients(net, tmp_path):
    with open_runtime(as_file(net, "onnx", tmp_path), MACHINE) as run:
        rows = torch.from_numpy(ROWS).requires_grad_()
        score = run.as_torch()(rows)
    assert not score.requires_grad
    torch.testing.assert_close(score, net(rows).detach())


def test_every_layer_is_in_eval_mode_and_the_callers_module_is_untouched(net):
    net.train()
    try:
        with open_runtime(live_model(net), MACHINE) as run:
            assert not any(layer.training for layer in run.module.modules())
            one, two = run({"x": ROWS}), run({"x": ROWS})
            assert torch.equal(one["output"], two["output"])
        assert net.training
        assert all(p.requires_grad for p in net.parameters())
    finally:
        net.eval()


def test_a_layer_that_stays_in_train_mode_is_refused():
    class Stubborn(nn.Dropout):
        def train(self, mode=True):  # noqa: FBT002 - the signature of torch
            return super().train(True)

    with pytest.raises(InputError, match=r"'0' stayed in train mode"):
        open_runtime(live_model(nn.Sequential(Stubborn())), MACHINE)


class Two(nn.Module):
    def forward(self, image, table, scale=None):
        score = image.mean((1, 2)) + table
        return score if scale is None else score * scale


PAIR = {"image": np.ones((4, 2, 2), np.float32), "table": np.arange(4, dtype=np.float64)}


def test_several_inputs_go_by_name():
    with open_runtime(live_model(Two()), MACHINE) as run:
        assert run(dict(reversed(PAIR.items())))["output"].tolist() == [1, 2, 3, 4]
        assert run(PAIR | {"scale": np.full(4, 2.0)})["output"].tolist() == [2, 4, 6, 8]
        assert run.as_torch()(torch.ones(4, 2, 2), torch.arange(4.0)).tolist() == [1, 2, 3, 4]
        for wrong in ({"image": PAIR["image"]}, {"image": PAIR["image"], "tabel": PAIR["table"]}):
            with pytest.raises(InputError, match=r"inputs are 'image', 'table' and the data has"):
                run(wrong)


class AllOptional(nn.Module):
    def forward(self, input_ids=None, pixels=None):
        return input_ids if pixels is None else pixels * 2


def test_inputs_that_all_have_defaults_are_taken_by_name():
    with open_runtime(live_model(AllOptional()), MACHINE) as run:
        assert run({"pixels": np.ones(2)})["output"].tolist() == [2, 2]
        assert run({"x": np.ones(2)})["output"].tolist() == [1, 1]


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple | None = None
    loss: torch.Tensor | None = None


class Shaped(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return self.shape(x)


OUTPUTS = {
    "tensor": (lambda x: x, ["output"]),
    "tuple": (lambda x: (x, x * 2), ["output_0", "output_1"]),
    "nested": (lambda x: (x, (x, x)), ["output_0", "output_1_0", "output_1_1"]),
    "dictionary": (lambda x: {"score": x, "box": x, "note": "text"}, ["score", "box"]),
    "dataclass": (lambda x: Answer(x, (x,)), ["logits", "hidden_0"]),
    "named tuple": (lambda x: torch.max(x, 1), ["output_0", "output_1"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_have_names(kind):
    shape, names = OUTPUTS[kind]
    with open_runtime(live_model(Shaped(shape)), MACHINE) as run:
        assert run.outputs == ()
        assert list(run({"x": ROWS})) == names == list(run.outputs)


def test_whole_numbers_are_indices_to_an_embedding_and_measurements_to_a_linear_layer():
    torch.manual_seed(0)
    lookup, line = nn.Embedding(9, 2), nn.Linear(3, 2)
    whole = np.array([[1, 2, 3], [4, 5, 6]])
    for module, expected in (
        (lookup, lookup(torch.from_numpy(whole))),
        (line, line(torch.from_numpy(whole).float())),
    ):
        with open_runtime(live_model(module), MACHINE) as run:
            torch.testing.assert_close(run({"x": whole})["output"], expected.detach())
            torch.testing.assert_close(run({"x": whole.astype(np.int32)})["output"], expected.detach())
            run.bind({"x": whole})()


def test_arrays_that_torch_does_not_like(net):
    with open_runtime(live_model(net), MACHINE) as run:
        expected = run({"x": ROWS})["output"]
        frozen = ROWS.copy()
        frozen.flags.writeable = False
        for odd in (frozen, np.asfortranarray(ROWS), ROWS[:, ::-1][:, ::-1], ROWS.astype(">f4")):
            torch.testing.assert_close(run({"x": odd})["output"], expected)
        with pytest.raises(InputError, match=r"not numbers.*--preprocess"):
            run({"x": np.array([["a", "b", "c"]])})


def test_half_precision_modules_are_fed_their_own_dtype():
    with open_runtime(live_model(nn.Linear(3, 2).bfloat16()), MACHINE) as run:
        assert run({"x": ROWS})["output"].dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMATS)
def test_a_wrong_shape_is_a_sentence(net, tmp_path, form):
    with open_runtime(as_file(net, form, tmp_path), MACHINE) as run:
        with pytest.raises(InputError, match=r"5x4.*--preprocess") as caught:
            run({"x": np.ones((5, 4), np.float32)})
        assert "\n" not in str(caught.value)
        np.testing.assert_equal(to_numpy(next(iter(run({"x": ROWS}).values()))).shape, (5, 4))


def test_rows_that_disagree_and_text_for_numbers(net, tmp_path):
    inputs = [("x", TensorProto.FLOAT, (1, 3)), ("z", TensorProto.FLOAT, (1, 3))]
    onnx.save(made([helper.make_node("Add", ["x", "z"], ["y"])], {}, inputs, ["y"]), tmp_path / "two.onnx")
    with open_runtime(identify(tmp_path / "two.onnx"), MACHINE) as run:
        np.testing.assert_allclose(run({"z": ROWS, "x": ROWS})["y"], ROWS * 2)
        with pytest.raises(InputError, match="different numbers of rows"):
            run({"x": ROWS, "z": ROWS[:2]})
        with pytest.raises(InputError, match="takes float32 and the data holds <U1"):
            run({"x": np.full((1, 3), "a"), "z": ROWS[:1]})


def test_an_onnx_output_that_sums_over_a_fixed_batch_is_refused(tmp_path):
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    onnx.save(made([node], {}, [("x", TensorProto.FLOAT, (2, 3))], ["y"]), tmp_path / "sum.onnx")
    with open_runtime(identify(tmp_path / "sum.onnx"), MACHINE) as run:
        assert run({"x": ROWS[:2]})["y"].shape == ()
        with pytest.raises(InputError, match="one line a row"):
            run({"x": ROWS})


def test_an_invalid_onnx_model_is_a_sentence(tmp_path):
    onnx.save(
        made([helper.make_node("Nonsense", ["x"], ["y"])], {}, [("x", 1, (1,))], ["y"]), tmp_path / "bad.onnx"
    )
    with pytest.raises(InputError, match=r"cannot be run by ONNX Runtime: .*Nonsense"):
        open_runtime(identify(tmp_path / "bad.onnx"), MACHINE)


def test_a_provider_or_device_that_is_not_there_is_a_sentence_and_nothing_else(net, tmp_path, capfd):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    model = as_file(net, "onnx", tmp_path)
    with pytest.raises(InputError, match="Did you mean 'CPUExecutionProvider'"):
        open_runtime(model, Machine(provider="CPUExecutionProvder"))
    with pytest.raises(InputError, match="CUDAExecutionProvider"):
        open_runtime(model, Machine(device="cuda"))
    with pytest.raises(InputError, match="--device cpu"):
        open_runtime(live_model(net), Machine(device="cuda:0"))
    with pytest.raises(InputError, match="no device 'gpu'"):
        open_runtime(live_model(net), Machine(device="gpu"))
    assert capfd.readouterr() == ("", "")


def test_threads_are_those_asked_for_or_the_cores_allowed(net, monkeypatch):
    import os

    from study.cores import cores

    before = torch.get_num_threads()
    with open_runtime(live_model(net), Machine(threads=2)) as run:
        run({"x": ROWS})
        assert torch.get_num_threads() == 2
    cores.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert cores() == 1
    cores.cache_clear()
    torch.set_num_threads(before)


def test_open_runtimes_are_shared_and_closed(net):
    runtimes = Runtimes(keep=1)
    model = live_model(net)
    run = runtimes.get(model, MACHINE)
    assert runtimes.get(model, MACHINE) is run
    runtimes.get(live_model(nn.Linear(2, 2)), MACHINE)
    assert not list(run.module.parameters())
    runtimes.close()


def test_each_format_has_its_runtime():
    assert [runtime_of(form) for form in FORMATS] == ["pytorch"] * 3 + ["onnxruntime"]


def test_weights_alone_do_not_run(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="--arch"):
        open_runtime(identify(tmp_path / "w.pt"), MACHINE)
    assert isinstance(identify(tmp_path / "w.pt"), Model)


def test_exported_programs_with_named_and_constant_inputs(tmp_path):
    shapes = {"image": {0: torch.export.Dim.AUTO}, "table": {0: torch.export.Dim.AUTO}, "scale": None}
    program = torch.export.export(
        Two(), (torch.ones(3, 2, 2),), {"table": torch.ones(3), "scale": None}, dynamic_shapes=shapes
    )
    torch.export.save(program, tmp_path / "two.pt2")
    with open_runtime(identify(tmp_path / "two.pt2"), MACHINE) as run:
        assert [spec.name for spec in run.inputs] == ["image", "table"]
        assert run(PAIR)["output"].tolist() == [1, 2, 3, 4]
