"""``diag.toml`` and ``[tool.diag]``: what they may say, which holds, and how ``diag init`` writes one."""

import shutil
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import diag.init
from diag.cli import main
from diag.config import settings
from diag.options import Options
from study.errors import InputError
from tests.tiny import Files


@pytest.fixture
def project(tmp_path: Path, tiny_mlp: Files, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its data, in which one stands."""
    shutil.copy(tiny_mlp.model, tmp_path / "model.pt")
    shutil.copy(tiny_mlp.data, tmp_path / "test.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def plan(capfd: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The steps that a dry run shows."""
    assert main([*words, "--dry-run"]) == 0, capfd.readouterr().err
    return [
        line.split(":")[0].strip() for line in capfd.readouterr().out.splitlines() if line.startswith("  ")
    ]


COMPLETE = """
model = "model.pt"
data = "test.npz"
arch = "tests.tiny:mlp"
steps = "onnx,fp16"
"""


@pytest.mark.usefixtures("in_process")
def test_options_are_taken_and_flags_win(project: Path, capfd) -> None:
    (project / "diag.toml").write_text(COMPLETE)
    assert plan(capfd, "run") == ["00_as_it_came", "01_onnx", "02_fp16"]
    assert plan(capfd, "run", "model.pt") == ["00_as_it_came", "01_onnx", "02_fp16"]
    assert plan(capfd, "run", "--steps", "onnx") == ["00_as_it_came", "01_onnx"]
    assert plan(capfd, "analyze") == ["00_as_it_came"]


@pytest.mark.usefixtures("in_process")
def test_pyproject_has_a_table(project: Path, capfd) -> None:
    (project / "pyproject.toml").write_text(f'[project]\nname = "theirs"\n[tool.diag]{COMPLETE}')
    assert plan(capfd, "run") == ["00_as_it_came", "01_onnx", "02_fp16"]
    (project / "diag.toml").write_text(COMPLETE.replace("fp16", "int8-dynamic"))
    assert plan(capfd, "run")[-1] == "02_int8_dynamic", "diag.toml stands before pyproject.toml"


@pytest.mark.usefixtures("in_process")
def test_the_file_beside_the_model_holds_from_anywhere(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "diag.toml").write_text(COMPLETE)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "diag.toml").write_text('steps = "onnx"\n')
    assert plan(capfd, "run", str(project / "model.pt")) == ["00_as_it_came", "01_onnx", "02_fp16"]


def test_every_option_may_stand_there(project: Path) -> None:
    told = {
        "batch-size": 8, "sample": 5, "threads": 2, "seed": 7, "json": True, "quiet": True, "rows": [0, 5],
        "classes": ["a", "b"], "max-bad-rows": 0.1, "method": "occlusion", "arch-args": {"depth": 3},
    }  # fmt: skip
    plain = {"dry-run", "force", "unlabelled", "trust"}
    rest = {f.name.replace("_", "-") for f in fields(Options)} - set(told) - plain - {"as-json"}
    lines = [f"{name} = true" for name in sorted(plain)]
    lines += [f"{name} = 'text'" for name in sorted(rest)]
    lines += [f"{name} = {_toml(value)}" for name, value in told.items()]
    (project / "diag.toml").write_text("\n".join(lines))
    found = settings([])
    assert set(found) == {field.name for field in fields(Options)}
    assert (found["batch_size"], found["as_json"], found["seed"]) == (8, True, 7)
    assert (found["rows"], found["classes"], found["max_bad_rows"]) == ("0,5", "a,b", "0.1")
    assert (found["method"], found["arch_args"], found["shape"]) == (
        ["occlusion"],
        ['{"depth": 3}'],
        ["text"],
    )


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {one}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "model.pt"', "there is no option 'modle'. Did you mean 'model'?"),
        ('method = "occlusion"\nmax-bad-row = 1', "Did you mean 'max_bad_rows'?"),
        ("data = [", "diag.toml is no TOML"),
        ("[data]\nfile = 1", "'data' is a table"),
        ('sample = "five"\nmodel = "model.pt"', "--sample"),
    ],
)
def test_what_it_may_not_say(project: Path, capfd, text: str, said: str) -> None:
    (project / "diag.toml").write_text(text)
    assert main(["run"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("diag: ")
    assert err.count("\n") == 1
    assert not (project / "diag-runs").exists()


def test_an_unreadable_encoding_is_told(project: Path) -> None:
    (project / "diag.toml").write_bytes("steps = 'ö'".encode("latin-1"))
    with pytest.raises(InputError, match="is no TOML"):
        settings([])


def test_what_came_with_a_model_cannot_say_to_trust_it(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "diag.toml").write_text("trust = true\n")
    assert settings(["model.pt"]) == {"trust": True}, "whoever stands in the folder works in it"
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match="type --trust"):
        settings([str(project / "model.pt")])


# --- diag init --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_init_writes_what_run_goes_by(project: Path, capfd) -> None:
    flags = ["--data", "test.npz", "--arch", "tests.tiny:mlp", "--steps", "onnx,fp16", "--max-bad-rows", "1%"]
    assert main(["init", "model.pt", *flags]) == 0
    assert capfd.readouterr().out == "diag.toml written: diag run model.pt goes by it.\n"
    assert tomllib.loads((project / "diag.toml").read_text()) == {
        "model": "model.pt",
        "data": "test.npz",
        "arch": ["tests.tiny:mlp"],
        "steps": "onnx,fp16",
        "max-bad-rows": "1%",
    }
    assert plan(capfd, "run") == ["00_as_it_came", "01_onnx", "02_fp16"]
    assert main(["init", "model.pt", *flags]) == 2
    assert "use --force to replace it" in capfd.readouterr().err
    assert main(["init", "model.pt", *flags[:4], "--force"]) == 0
    assert "steps" not in tomllib.loads((project / "diag.toml").read_text())


@pytest.mark.usefixtures("in_process")
def test_init_writes_paths_as_they_are_from_its_file(project: Path, capfd, monkeypatch) -> None:
    (project / "models").mkdir()
    (project / "model.pt").rename(project / "models" / "model.pt")
    assert main(["init", "models/model.pt", "--data", "test.npz", "--arch", "tests.tiny:mlp"]) == 0
    written = tomllib.loads((project / "models" / "diag.toml").read_text())
    assert (written["model"], written["data"]) == ("model.pt", "../test.npz")
    assert plan(capfd, "run", "models/model.pt")[-1] == "02_int8"
    monkeypatch.chdir(project / "models")
    assert plan(capfd, "run")[-1] == "02_int8"


def test_init_asks_what_was_not_given(project: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(question: str, **_: object) -> str:
        asked.append(question)
        for word, reply in (
            ("model's file", "model.pt"),
            ("judges", "test.npz"),
            ("builds", "tests.tiny:mlp"),
        ):
            if word in question:
                return reply
        return "onnx,int8-dynamic" if "Steps" in question else ""

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(diag.init.typer, "prompt", answer)
    assert main(["init", "--train", "test.npz"]) == 0
    assert len(asked) == 4, "what is given as a flag is not asked"
    written = tomllib.loads((project / "diag.toml").read_text())
    assert written == {
        "model": "model.pt",
        "train": "test.npz",
        "data": "test.npz",
        "arch": "tests.tiny:mlp",
        "steps": "onnx,int8-dynamic",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init"], "Type diag init MODEL"),
        (["init", "nosuch.pt"], "There is no file nosuch.pt"),
        (["init", "model.pt", "--steps", "onxn"], "Did you mean 'onnx'?"),
        (["init", "model.pt", "--missing", "mena", "--data", "test.npz"], "Did you mean 'mean'?"),
    ],
)
def test_init_checks_what_it_writes(project: Path, capfd, words: list[str], said: str) -> None:
    assert main(words) == 2
    assert said in capfd.readouterr().err
    assert not (project / "diag.toml").exists()
