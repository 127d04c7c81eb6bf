"""Every model file that this project did not make: how it loads, or the sentence that refuses it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from explain.method import Explained
from explain.methods.integrated_gradients import IntegratedGradients
from study.errors import InputError, SkipError
from study.guess import guess_task
from study.loading import identify, load_module, tensors
from study.runtime import open_runtime, to_numpy
from study.subject import Machine
from study.task import losses, probabilities, scored
from tests.test_loading_real import mnist, nets, passengers  # noqa: F401 - a fixture

BURN = "burn_pt_reader"
LAYERS = (
    *("batch_norm__batch_norm2d", "boolean__boolean", "buffer__buffer", "complex_nested__complex_nested"),
    *(
        "config__weights_with_config",
        "conv1d__conv1d",
        "conv2d__conv2d",
        "conv_transpose1d__conv_transpose1d",
    ),
    *("conv_transpose2d__conv_transpose2d", "embedding__embedding", "enum_module__enum_depthwise_false"),
    *("enum_module__enum_depthwise_true", "group_norm__group_norm", "integer__integer"),
    *("key_remap__key_remap", "key_remap_chained__key_remap", "layer_norm__layer_norm", "linear__linear"),
    *("linear__linear_with_bias", "missing_module_field__missing_module_field"),
    *("non_contiguous_indexes__non_contiguous_indexes", "top_level_key__top_level_key"),
)
VALUES = (
    *("bfloat16", "bool", "buffers", "checkpoint", "complex_structure", "empty", "extreme_values", "float16"),
    *("float32", "float64", "int16", "int32", "int64", "int8", "large_shape", "legacy_shared_storage"),
    *("legacy_uncloned_views", "legacy_with_offsets", "mixed_types", "nested_dict", "parameter", "scalar"),
    *("simple_legacy", "special_values", "state_dict", "tensor_2d", "tensor_3d", "tensor_4d", "uint8"),
)
TARS = ("2d_tensor", "float32", "float64", "int64", "multi_dtype", "weight_bias")
SMALL = (
    *(f"pytorch-tests__tests__{name}.pt" for name in (*LAYERS, "debug_test", "test_int")),
    *(f"src__pytorch__tests__reader__test_data__{name}.pt" for name in VALUES),
    "src__pytorch__tests__store__test_data__model_without_enum_variants.pt",
    "safetensors-tests__tests__multi_layer__multi_layer.safetensors",
)


@dataclass(frozen=True)
class Loads:
    """With these options, as this artifact, with so many numbers in parameters and buffers."""

    artifact: str
    numbers: int
    arch: str = ""
    arch_args: str = "{}"


MODELS = {
    "captum_tutorial_models/cifar_torchvision.pt": Loads("pytorch/fp32", 62_006, "CaptumCifar"),
    "captum_tutorial_models/titanic_model.pt": Loads("pytorch/fp32", 278, "Titanic"),
    "charrnn_asim/baseline_model.pt": Loads("pytorch/fp32", 124_772, "CharRNN"),
    "executorch_cifar_net/cifar_net.pth": Loads("pytorch/fp32", 89_578, "ExecutorchCifar"),
    "fmnist_shreemit/fashion_mnist_cnn.pt": Loads(
        "pytorch/fp32", 407_050, "Mlp", '{"widths": [784, 512, 10]}'
    ),
    "lightning_mnist_rasbt/epoch=17-step=15479.ckpt": Loads("pytorch/fp32", 25_818, "Lightning"),
    "mnist_lenet_csinva/lenet_epoch=12_test_acc=0.991.pth": Loads("pytorch/fp32", 61_706, "LeNet"),
    "onnx_mnist_cntk/mnist.onnx": Loads("onnx/fp32", 5_994),
    "onnx_mnist_cntk/opt-mnist.onnx": Loads("onnx/fp32", 5_994),
    "pytorch_mobile_torchscript/vit4mnist.ptl": Loads("torchscript/int8", 0),
    "sentiment_agtheo09/sentiment_model.pth": Loads("pytorch/fp32", 631_682, "Sentiment"),
    "udacity_cifar_cnn/model_augmented.pt": Loads("pytorch/fp32", 541_094, "UdacityCifar"),
    "udacity_cifar_cnn/model_cifar.pt": Loads("pytorch/fp32", 541_094, "UdacityCifar"),
    "udacity_mnist_mlp/model.pt": Loads("pytorch/fp32", 669_706, "Mlp"),
}
REFUSED = {
    "charrnn_asim/baseline_model.pt": r"whole pickled module.*\(.model\.CharRNN.*--trust.*--arch module",
    "sentiment_agtheo09/sentiment_model_vectorizer.pkl": r"runs code when it is read \('sklearn",
    f"{BURN}/src__pytorch__tests__reader__test_data__broken.pt": r"is not a model: give a state dict",
    **{
        f"{BURN}/src__pytorch__tests__reader__test_data__tar_{name}.tar": "in the old tar format.*--trust"
        for name in TARS
    },
}
MACHINE = Machine(threads=1)


def test_the_table_has_every_model_file(shared_data: Path) -> None:
    suffixes = {".pt", ".pth", ".ckpt", ".onnx", ".ptl", ".pkl", ".tar", ".safetensors"}
    there = {p.relative_to(shared_data).as_posix() for p in shared_data.rglob("*") if p.suffix in suffixes}
    assert there == {*MODELS, *REFUSED, *(f"{BURN}/{name}" for name in SMALL)}
    assert sum(name.startswith(BURN) for name in there) == 62


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize("file", MODELS)
def test_a_model_loads(file: str, shared_data: Path) -> None:
    wanted = MODELS[file]
    arch = wanted.arch and f"real_nets:{wanted.arch}"
    model = identify(shared_data / file, arch=arch, arch_args=wanted.arch_args)
    assert model.artifact == wanted.artifact
    if wanted.numbers == 0:  # packed
        with pytest.raises(SkipError, match="its weights are packed"):
            list(tensors(model))
        assert not load_module(model).training
        return
    assert sum(array.size for _, array in tensors(model) if array.dtype.kind == "f") == wanted.numbers
    if arch:
        assert sum(p.numel() for p in load_module(model).parameters()) == wanted.numbers


@pytest.mark.parametrize("file", REFUSED)
def test_a_file_is_refused(file: str, shared_data: Path) -> None:
    with pytest.raises(InputError, match=REFUSED[file]) as refused:
        identify(shared_data / file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", SMALL)
def test_a_small_checkpoint_shows_what_torch_reads(file: str, shared_data: Path) -> None:
    path = shared_data / BURN / file
    oracle = _as_torch_reads(path)
    shown = dict(tensors(identify(path)))
    assert shown.keys() == oracle.keys()
    for name, array in shown.items():
        plain = oracle[name].detach()
        np.testing.assert_array_equal(
            array, (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
        )


def _as_torch_reads(path: Path) -> dict[str, torch.Tensor]:
    """The plain twin: what torch reads, flattened, out of the one wrapper that the set has."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, weights_only=True)
    flat: dict[str, torch.Tensor] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}.{key}".lstrip("."))
        elif isinstance(node, list):
            for at, value in enumerate(node):
                walk(value, f"{name}.{at}")
        elif isinstance(node, torch.Tensor):
            flat[name] = node

    walk(loaded.get("model_state_dict", loaded), "")
    return flat


def test_tars_that_torch_cannot_read_are_a_sentence_with_trust_too(
    shared_data: Path,
) -> None:
    path = shared_data / BURN / "src__pytorch__tests__reader__test_data__tar_float32.tar"
    with pytest.raises(InputError, match="cannot be unpickled"):
        list(tensors(identify(path, trust=True)))


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("captum_tutorial_models/titanic_model.pt", "probabilities"),
        ("mnist_lenet_csinva/lenet_epoch=12_test_acc=0.991.pth", "log-probabilities"),
        ("udacity_mnist_mlp/model.pt", "logits"),
    ],
)
def test_what_is_a_probability_already_is_not_softmaxed_again(
    file: str, output: str, shared_data: Path
) -> None:
    rows, labels = _some_rows(file, shared_data)
    with open_runtime(identify(shared_data / file, arch=f"real_nets:{MODELS[file].arch}"), MACHINE) as run:
        outputs = run({"x": rows})
    task, notes = guess_task(labels, outputs)
    assert task.output == output
    assert any(f"of {output}" in note for note in notes)
    given = torch.from_numpy(to_numpy(next(iter(outputs.values())))).double()
    logs = {"probabilities": given.log(), "log-probabilities": given, "logits": given.log_softmax(1)}[output]
    oracle = torch.nn.functional.nll_loss(logs, torch.from_numpy(labels), reduction="none")
    found = scored(task, outputs)
    np.testing.assert_allclose(losses(task, found, labels), oracle, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(probabilities(task, found), logs.exp(), rtol=1e-6, atol=1e-12)


def _some_rows(file: str, shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    if "titanic" in file:
        table, labels = passengers(shared_data)
        return table[:200], labels[:200]
    images, labels = mnist(shared_data, 200)
    size = 32 if "lenet" in file else 28
    large = [
        np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR)) for one in images
    ]
    return np.stack(large)[:, None].astype(np.float32) / 255, labels.astype(np.int64)


PUBLISHED = {
    "age": -0.454, "sibsp": -0.119, "parch": -0.056, "fare": 0.175, "female": 0.154, "male": -0.359,
    "embark_C": 0.086, "embark_Q": -0.001, "embark_S": -0.082, "class_1": 0.062, "class_2": 0.021,
    "class_3": -0.159,
}  # fmt: skip


@pytest.mark.usefixtures("nets")
def test_the_mean_integrated_gradients_of_the_titanic_network(shared_data: Path) -> None:
    """Those that captum's notebook prints: of surviving, from a row of zeros, over the test split."""
    table, labels = passengers(shared_data)
    drawn = np.random.RandomState(131254).choice(len(labels), int(0.7 * len(labels)), replace=False)
    rows = table[np.setdiff1d(np.arange(len(labels)), drawn)]
    asked = Explained(tuple(map(str, range(len(rows)))), {"x": rows}, np.ones(len(rows), np.int64))
    path = shared_data / "captum_tutorial_models" / "titanic_model.pt"
    with open_runtime(identify(path, arch="real_nets:Titanic"), MACHINE) as run:
        found = IntegratedGradients().attribute(run, asked)
    mean = found.values["x"].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(mean, list(PUBLISHED.values()), atol=6e-4)  # it took 50 steps for all rows
    assert float(np.max(found.completeness)) < 0.05
