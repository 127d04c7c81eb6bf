"""Bad input: one sentence that says what to do, exit code 2, nothing untrusted run, nothing written."""

import io
import os
import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from diag.cli import main
from study.storage import RunFolder
from tests.tiny import Files, mlp

NAMES = 4
"""The name that is wrong, and at most three that there are."""


class Touch:
    """Makes a file when it is unpickled, by a function that pickles as ``posix.system``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@dataclass
class Desk:
    """A folder to stand in, and the check that a command refuses and leaves no trace."""

    here: Path
    files: Files
    output: pytest.CaptureFixture[str]

    @property
    def loaded(self) -> list[str]:
        return [str(self.files.model), "--arch", self.files.arch]

    @property
    def judged(self) -> list[str]:
        return [*self.loaded, "--data", str(self.files.data)]

    def tree(self) -> dict[str, bytes]:
        found = [path for path in self.here.rglob("*") if "__pycache__" not in path.parts]
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}

    def refused(self, *words: object) -> str:
        before = self.tree()
        self.output.readouterr()
        code = main([str(word) for word in words])
        said = self.output.readouterr()
        assert code == 2, said.err
        assert said.out == ""
        assert re.fullmatch(r"diag: [^\n]+[.?]\n", said.err), said.err
        assert "Traceback" not in said.err
        assert len(re.findall(r"(?<!\w)'[^']+'", said.err)) <= NAMES, said.err
        assert self.tree() == before
        return said.err

    def file(self, name: str, content: bytes = b"") -> Path:
        path = self.here / name
        path.write_bytes(content)
        return path

    def npz(self, **arrays: np.ndarray) -> Path:
        path = self.here / "data.npz"
        np.savez(path, **arrays)
        return path


@pytest.fixture
def desk(
    tmp_path: Path, tiny_mlp: Files, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands append the folder that one stands in
    return Desk(tmp_path, tiny_mlp, capfd)


# --- the model's file -------------------------------------------------------------------------------------


def test_no_such_file(desk: Desk) -> None:
    assert "no file nosuch.pt" in desk.refused("analyze", "nosuch.pt")
    desk.file("model.pt", b"x")
    assert "Did you mean 'model.pt'?" in desk.refused("analyze", "modle.pt")
    desk.file("model.pt").unlink()
    assert "is a folder" in desk.refused("analyze", desk.here)


@pytest.mark.parametrize("command", ["analyze", "export", "benchmark", "run", "explain"])
def test_an_empty_file(desk: Desk, command: str) -> None:
    assert "is empty: copy or save it again" in desk.refused(
        command, desk.file("m.pt"), "--data", desk.files.data
    )


def _zipped(path: Path, net: torch.nn.Module) -> None:
    torch.save(net.state_dict(), path)


def _legacy(path: Path, net: torch.nn.Module) -> None:
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)


def _torchscript(path: Path, net: torch.nn.Module) -> None:
    torch.jit.trace(net, torch.zeros(1, 1, 8, 8)).save(path)


def _exported(path: Path, net: torch.nn.Module) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),)), path)


def _onnx(path: Path, net: torch.nn.Module) -> None:
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [64, 10], np.zeros(640, np.float32).tobytes(), raw=True
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 10])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.pt", _zipped),
        ("legacy.pth", _legacy),
        ("model.safetensors", lambda path, net: save_file(net.state_dict(), path)),
        ("model.onnx", _onnx),
        ("script.pt", _torchscript),
        ("program.pt2", _exported),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_a_cut_off_file(desk: Desk, name: str, write: Callable[[Path, torch.nn.Module], None]) -> None:
    whole = desk.here / name
    write(whole, mlp().eval())
    content = whole.read_bytes()
    whole.unlink()
    for length in (60, len(content) // 2, len(content) - 8):
        said = desk.refused("analyze", desk.file(name, content[:length]))
        assert "cut off" in said
        assert "again" in said


def test_no_model(desk: Desk) -> None:
    assert "is not a model: give" in desk.refused(
        "analyze", desk.file("model.pt", b"a text of some length\n" * 9)
    )
    with zipfile.ZipFile(desk.here / "notes.pt", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    assert "a zip that holds no model: give" in desk.refused("analyze", "notes.pt")
    assert "give it as --data" in desk.refused("analyze", desk.files.data)
    desk.file("numbers.pkl", pickle.dumps(3))
    assert "not of a state dict or a module: give" in desk.refused("analyze", "numbers.pkl")


# --- what would run code ----------------------------------------------------------------------------------


def _nested(touch: Touch) -> bytes:
    inner = io.BytesIO()
    torch.save({"a": touch}, inner)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("model.pt", inner.getvalue())
    return outer.getvalue()


def _tar(touch: Touch) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (
            ("sys_info", pickle.dumps({})),
            ("pickle", pickle.dumps(touch)),
            ("storages", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _saved(touch: Touch, *, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(3), "a": touch}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(pickle.dumps, id="raw"),
        pytest.param(lambda touch: pickle.dumps(touch, protocol=0), id="text"),
        pytest.param(lambda touch: _saved(touch, zipped=True), id="zip"),
        pytest.param(lambda touch: _saved(touch, zipped=False), id="legacy"),
        pytest.param(_tar, id="tar"),
        pytest.param(_nested, id="zip in a zip"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_a_pickle_is_never_run_and_its_globals_are_named(desk: Desk, pack: Callable[[Touch], bytes]) -> None:
    mark = desk.here / "executed"
    evil = desk.file("model.pt", pack(Touch(mark)))
    for more in (
        [],
        ["--arch", desk.files.arch],
        ["--arch", desk.files.arch, "--data", str(desk.files.data)],
    ):
        said = desk.refused("analyze", evil, *more)
        assert "'posix.system'" in said
        assert "--trust" in said
    assert not mark.exists()


def test_what_a_pickle_names_cannot_act_on_the_terminal(desk: Desk) -> None:
    evil = desk.file("model.pkl", b"c\x1b]0;owned\x07\nsystem\n(S'true'\ntR.")
    said = desk.refused("analyze", evil)
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_whole_module_is_refused_with_the_two_commands_that_work(desk: Desk) -> None:
    torch.save(mlp(), desk.here / "whole.pt")
    said = desk.refused("analyze", "whole.pt")
    assert "type diag analyze whole.pt --trust " in said
    assert "diag analyze whole.pt --arch module:factory" in said
    assert "torch.nn.modules" in said


@pytest.mark.parametrize("name", ["data.npz", "data.npy"])
@pytest.mark.usefixtures("in_process")
def test_objects_in_data_are_never_unpickled(desk: Desk, name: str) -> None:
    mark = desk.here / "executed"
    objects = np.array([Touch(mark), 1], dtype=object)
    if name.endswith("npz"):
        np.savez(name, x=objects, y=np.zeros(2))
    else:
        np.save(name, objects)
    said = desk.refused("analyze", *desk.loaded, "--data", name, "--label", "y" if "npz" in name else name)
    assert "'posix.system'" in said
    assert not mark.exists()


# --- --arch -----------------------------------------------------------------------------------------------

FACTORY = """
def raises():
    raise ValueError("the weather\\nis bad")
def nothing():
    pass
def text():
    return "net"
def needs(depth):
    return None
def leaves():
    import sys
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("tests.tiny:cnn", r"does not fit --arch .*'1.weight .*: give the --arch"),
        (
            "nosuchmodule:build",
            r"cannot be imported: ModuleNotFoundError.*'nosuchmodule': stand in the folder",
        ),
        ("tests.tiny:mpl", r"no 'mpl' in tests.tiny. Did you mean 'mlp'\?"),
        ("tests.tiny", r"is not module:name: type for example --arch tests.tiny:build"),
        ("tests/tiny.py:mlp", r"takes a module, not a file: type --arch tests.tiny:mlp"),
        ("broken_module_of_theirs:build", r"SyntaxError.*\(broken_module_of_theirs.py:1\): stand in"),
        ("factory_of_theirs:raises", r"raised: ValueError: the weather \(factory_of_theirs.py:3\): mend it"),
        ("factory_of_theirs:nothing", r"gave nothing, not a torch.nn.Module: return the module"),
        ("factory_of_theirs:text", r"gave a str, not a torch.nn.Module: return the module"),
        ("factory_of_theirs:needs", r"missing 1 required positional argument.*--arch-args"),
        ("factory_of_theirs:leaves", r"raised: SystemExit: 3 \(factory_of_theirs.py:12\)"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_a_factory_that_gives_no_fitting_module(
    desk: Desk, arch: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.file("factory_of_theirs.py", FACTORY.encode())
    desk.file("broken_module_of_theirs.py", b"def build(:\n")
    monkeypatch.delitem(sys.modules, "factory_of_theirs", raising=False)
    assert re.search(
        said, desk.refused("analyze", desk.files.model, "--arch", arch, "--data", desk.files.data)
    )


@pytest.mark.parametrize("text", ["nojson", "[1]", '{"depth": }'])
def test_arch_args_that_are_no_json_object(desk: Desk, text: str) -> None:
    assert """type for example '{"depth": 20}'""" in desk.refused(
        "analyze", *desk.loaded, "--arch-args", text
    )


def test_arch_is_given_once_or_once_each(desk: Desk) -> None:
    assert "once, or once each" in desk.refused("analyze", *desk.loaded, "--arch", "a:b")


@pytest.mark.usefixtures("in_process")
def test_a_module_named_like_ours_is_told(desk: Desk) -> None:
    desk.file("study.py")
    assert "study.py has the name of a part of diag" in desk.refused("analyze", *desk.judged)


@pytest.mark.parametrize("command", ["run", "explain", "export", "benchmark"])
def test_a_state_dict_alone_has_health_and_nothing_else(desk: Desk, command: str) -> None:
    said = desk.refused(command, desk.files.model, "--data", desk.files.data)
    assert "give --arch module:factory" in said


# --- the data ---------------------------------------------------------------------------------------------

X = np.zeros((20, 1, 8, 8), np.float32)
Y = np.arange(20) % 10
HALF = np.where(np.arange(20)[:, None, None, None] < 10, np.nan, X)


XY = {"x": X, "y": Y}
MISFITS: dict[str, tuple[dict[str, np.ndarray], list[str], str]] = {
    "shape": ({"x": X[:, :, :6], "y": Y}, [], "does not run on input.*: give data of the shape"),
    "axes": ({"x": X[:, 0, 0], "y": Y}, [], "does not run on input.*: give data of the shape"),
    "dtype": ({"x": X.astype(complex), "y": Y}, [], "complex128: save it as numbers"),
    "texts": ({"x": np.array(["a"] * 20), "y": Y}, [], "holds texts: give --tokenizer .* or --preprocess"),
    "label too high": ({"x": X, "y": Y + 5}, [], "labels go up to 14.* indices from 0 to 9"),
    "words": ({"x": X, "y": np.array(["a", "b"] * 10)}, [], "10 classes apart: give --classes"),
    "classes": (XY, ["--classes", "a,b"], "--classes names 2 .*with 10 names"),
    "no labels": ({"x": X}, [], "no labels .*--label.*--unlabelled"),
    "labels missing": ({"x": X, "y": np.full(20, np.nan)}, [], "--unlabelled"),
    "lengths": ({"x": X, "y": Y[:5]}, [], "20 rows and there are labels for 5: name arrays"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, [], "has no rows: give one"),
    "two inputs": ({"a": X, "b": X, "y": Y}, [], "takes 'input' and the data has 'a', 'b': choose"),
    "bad rows": ({"x": HALF, "y": Y}, [], "10 of 20 rows.*give --max-bad-rows 50%"),
    "all bad": ({"x": X * np.nan, "y": Y}, ["--max-bad-rows", "100%"], "can be used.*: mend"),
    "label": (XY, ["--label", "yy"], "names 'yy'.* Did you mean 'y'"),
    "column": (XY, ["--columns", "xx"], "names 'xx'.* Did you mean 'x'"),
    "group": (XY, ["--group", "yy"], "names 'yy'.* Did you mean 'y'"),
    "regression": (XY, ["--task", "regression"], "regression needs as many"),
    "multilabel": (XY, ["--task", "multilabel"], "multilabel task needs 10 labels"),
    "preprocess": (XY, ["--preprocess", "nosuch:f"], "cannot be imported.*: stand"),
    "no function": (XY, ["--preprocess", "os:nosuch"], "no 'nosuch' in os"),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.usefixtures("in_process")
def test_data_that_does_not_fit(desk: Desk, name: str) -> None:
    arrays, more, said = MISFITS[name]
    told = desk.refused("analyze", *desk.loaded, "--data", desk.npz(**arrays), *more)
    assert re.search(said, told), told


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.npz", b"", "is empty: copy or save it again"),
        ("cut.npz", b"PK\x03\x04 and no more", "damaged or cut off"),
        ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "no whole .npy file"),
        ("cut.parquet", b"PAR1 and no more", "no whole Parquet file"),
        ("data.bin", b"\x00\x01\x02" * 50, "no data that can be read: give .npz"),
        ("header.csv", b"a,b,label\n", "has no rows: give one"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_a_file_that_is_no_data(desk: Desk, name: str, content: bytes, said: str) -> None:
    more = ["--label", "y.npy"] if name.endswith("npy") else []
    told = desk.refused("analyze", *desk.loaded, "--data", desk.file(name, content), *more)
    assert said in told, told


@pytest.mark.usefixtures("in_process")
def test_no_such_data(desk: Desk) -> None:
    desk.npz(x=X, y=Y)
    assert "Did you mean 'data.npz'?" in desk.refused("analyze", *desk.loaded, "--data", "dta.npz")


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "clasification"], "Did you mean 'classification'?"),
        (["--missing", "mena"], "Did you mean 'mean'?"),
        (["--smaple", "5"], "There is no option '--smaple'. Did you mean '--sample'?"),
        (["--sample", "0"], "give 1 or more"),
        (["--sample", "five"], "--sample"),
        (["--max-bad-rows", "150%"], "give a share such as 5% or 0.05"),
        (["--max-bad-rows", "-0.1"], "give a share such as 5% or 0.05"),
        (["--device", "gpu"], "type cpu, cuda or cuda:0"),
        (["--provider", "CPUExecutionProvidr"], "Did you mean 'CPUExecutionProvider'?"),
        (["--batch-size", "-1"], "give 1 or more"),
        (["--threads", "-2"], "give 1 or more"),
        (["--shape", "big"], "type for example 1x3x224x224"),
        (["--shape", "1x1x8x8:flaot32"], "Did you mean 'float32'?"),
        (["--shape", "1x0x8x8"], "every size is 1 or more"),
        (["--out"], "diag analyze --help"),
    ],
)
def test_options_that_do_not_fit(desk: Desk, words: list[str], said: str) -> None:
    assert said in desk.refused("analyze", *desk.judged, *words)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("onxn", "There is no step 'onxn'. Did you mean 'onnx'?"),
        ("prune:1.5", "must lie between 0 and 1, e.g. prune:0.3"),
        ("prune:0", "must lie between 0 and 1"),
        ("prune:-0.2", "must lie between 0 and 1"),
        ("prune:nan", "must lie between 0 and 1"),
        ("prune", "type for example 'prune:0.3'"),
        ("prune:x", "type for example 'prune:0.3'"),
        ("onnx:3", "type 'onnx'"),
        ("onnx,,int8", "a comma chains"),
        ("(onnx", "a comma chains"),
        ("", "a comma chains"),
        ("int8,int8", "branch instead"),
        ("onnx,prune:0.3", "put it before onnx"),
    ],
)
def test_steps_that_are_no_plan(desk: Desk, steps: str, said: str) -> None:
    assert said in desk.refused("run", *desk.judged, "--steps", steps)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "oclusion"], "Did you mean 'occlusion'?"),
        (["--rows", "erors"], "Did you mean 'errors'?"),
        (["--rows", "0,9999"], "There are no judged rows '9999': rows count from 0"),
        (["--rows", "0", "--target", "zebra"], "There is no class 'zebra'."),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_what_cannot_be_explained(desk: Desk, words: list[str], said: str) -> None:
    assert said in desk.refused("explain", *desk.judged, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu", "model.pt"], "Did you mean 'run'?"),
        (["analyze"], "diag analyze --help"),
        (["compare", "a.pt"], "diag compare --help"),
        (["benchmark"], "diag benchmark --help"),
        (["analyze", "a.pt", "b.pt"], "diag analyze --help"),
        (["report", "nosuch"], "no report in nosuch: name a run folder"),
        (["report", "nosuch", "--format", "htlm"], "Did you mean 'html'?"),
    ],
)
def test_commands_that_lack_something(desk: Desk, words: list[str], said: str) -> None:
    assert said in desk.refused(*words)


@pytest.mark.parametrize("command", ["run", "explain"])
def test_commands_that_need_data(desk: Desk, command: str) -> None:
    assert "give --data" in desk.refused(command, *desk.loaded)


@pytest.mark.usefixtures("in_process")
def test_what_is_fed_must_be_known_and_fit(desk: Desk) -> None:
    for command in ("benchmark", "export"):
        assert "give --data, or --shape" in desk.refused(command, *desk.loaded)
        said = desk.refused(command, *desk.loaded, "--shape", "1x3x8x8")
        assert "does not run on input" in said
    assert "--batch is 'x': give sizes such as 1,8" in desk.refused("benchmark", *desk.loaded, "--batch", "x")


# --- the run folder ---------------------------------------------------------------------------------------


def test_out_must_be_free(desk: Desk) -> None:
    occupied = desk.file("thesis.txt", b"two years of work")
    assert "Cannot write to" in desk.refused("analyze", *desk.judged, "--out", occupied)
    assert "Cannot write to" in desk.refused("analyze", *desk.judged, "--out", occupied / "run")
    said = desk.refused("analyze", *desk.judged, "--out", desk.here)
    assert "holds no run: choose another folder with --out" in said
    assert "holds no run" in desk.refused("analyze", *desk.judged, "--out", desk.here, "--force")


@pytest.mark.usefixtures("in_process")
def test_a_folder_of_another_plan_and_a_damaged_one(desk: Desk) -> None:
    words = ["analyze", str(desk.files.model), "--out", "run"]
    assert main([*words, "--quiet"]) == 0
    assert "use --force to replace it" in desk.refused(*words, "--seed", "1")
    desk.file("run/run.json", b'{"format": 1,')
    assert "run.json is damaged: use --force" in desk.refused(*words)
    assert main([*words, "--quiet", "--force"]) == 0


def test_two_at_the_same_folder(desk: Desk) -> None:
    with RunFolder(desk.here / "run").locked():
        assert "Another diag is writing to run: wait" in desk.refused("analyze", *desk.judged, "--out", "run")


@pytest.mark.usefixtures("in_process")
def test_an_empty_folder_is_left_empty(desk: Desk) -> None:
    (desk.here / "run").mkdir()
    assert "has no rows" in desk.refused(
        "analyze", *desk.loaded, "--data", desk.npz(x=X[:0], y=Y[:0]), "--out", "run"
    )


# --- across the process boundary --------------------------------------------------------------------------

NOISY = """
import os, sys, warnings
from tests.tiny import mlp
def build():
    print("chatter on stdout"); print("chatter on stderr", file=sys.stderr)
    os.system("echo chatter of a child"); warnings.warn("chatter as a warning")
    return mlp()
def raises():
    build()
    raise KeyError("depth")
"""


def test_errors_cross_the_process_boundary_alone(desk: Desk) -> None:
    desk.file("noisy_factory.py", NOISY.encode())
    words = ["analyze", str(desk.files.model), "--data", str(desk.files.data), "--arch"]
    assert "raised: KeyError: 'depth' (noisy_factory.py:10)" in desk.refused(*words, "noisy_factory:raises")
    said = desk.refused(*words[:2], "--arch", "noisy_factory:build", "--data", desk.npz(x=X[:, :, :6], y=Y))
    assert "does not run on input" in said


def test_what_libraries_say_lies_in_the_log(desk: Desk) -> None:
    desk.file("noisy_factory.py", NOISY.encode())
    words = [
        "analyze",
        str(desk.files.model),
        "--data",
        str(desk.files.data),
        "--arch",
        "noisy_factory:build",
    ]
    assert main([*words, "--out", "run"]) == 0
    said = desk.output.readouterr()
    assert "chatter" not in said.out + said.err
    log = (desk.here / "run" / "log.txt").read_text()
    for noise in ("on stdout", "on stderr", "of a child", "as a warning"):
        assert f"chatter {noise}" in log
