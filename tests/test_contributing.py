"""The diffs of CONTRIBUTING.md apply to this tree, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("study", "diagnose", "explain", "export", "diag", "tests")
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
DIFFS = dict(re.findall(r"^### An? (\w+)\n.*?^```diff\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
CATALOGUES = {
    "check": "diagnose/check.py",
    "probe": "diagnose/probe.py",
    "method": "explain/method.py",
    "pass": "export/change.py",
    "format": "study/loading/weight_file.py",
    "source": "study/data/source.py",
}
LONGEST = 45
TOGETHER = '''
"""All six at once, but for the probe, which no check asks for."""

import json

import numpy as np
import polars as pl

from diag.cli import main


def test_one_run_of_the_command(tmp_path, tiny_mlp, in_process, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    state = torch.load(tiny_mlp.model, weights_only=True)
    np.savez("weights.npz", **{name: each.numpy() for name, each in state.items()})
    with np.load(tiny_mlp.data) as rows:
        cells = rows["x"][:100].reshape(100, -1)
        table = pl.DataFrame(cells, schema=[f"p{number:02}" for number in range(64)])
        table.with_columns(label=pl.Series(rows["y"][:100])).write_ipc("rows.arrow")
    words = ["weights.npz", "--arch", tiny_mlp.arch, "--data", "rows.arrow", "--quiet"]
    assert main(["run", *words, "--steps", "onnx,simplify", "--method", "saliency", "--out", "out"]) == 0
    with open("out/report.json", encoding="utf-8") as file:
        steps = json.load(file)["steps"]
    said = [{record["by"]: record["verdict"] for record in step["records"]} for step in steps]
    assert [step["name"] for step in steps] == ["as_it_came", "onnx", "simplify"]
    assert said[0]["saliency"] in ("good", "noted")
    assert said[2]["verification"] == "good"
    assert {step["balance"] for step in said} <= {"good", "noted"}
'''


@dataclass(frozen=True)
class Tree:
    """A copy of the project with all six diffs applied."""

    path: Path
    added: tuple[str, ...]

    def run(self, *words: str) -> str:
        """What a module prints, run in the copy as its contributor would run it."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.path,
            env={**own, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def git(folder: Path, *words: str, given: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("there is no git to apply a diff with")
    # A repository above the folder would make git read the paths from its root.
    apart = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", *words, "-"]
    done = subprocess.run(
        command, cwd=folder, env=apart, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def changes(folder: Path, diff: str) -> list[tuple[int, int, str]]:
    """Lines added, lines taken away and the path, of each file of a diff."""
    lines = [line.split("\t") for line in git(folder, "--numstat", given=diff).splitlines()]
    return [(int(added), int(gone), path) for added, gone, path in lines]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    folder = tmp_path_factory.mktemp("contributed") / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    added = []
    for diff in DIFFS.values():
        git(folder, given=diff)
        added += [path for _, _, path in changes(folder, diff) if path not in CATALOGUES.values()]
    return Tree(folder, tuple(added))


def test_every_kind_is_shown() -> None:
    assert set(DIFFS) == set(CATALOGUES)
    assert TEXT.count("```diff") == len(DIFFS)


@pytest.mark.parametrize("kind", CATALOGUES)
def test_a_plugin_is_one_file_one_line_and_a_test(kind: str, tmp_path: Path) -> None:
    line, plugin, test = changes(tmp_path, DIFFS[kind])
    assert line == (1, 0, CATALOGUES[kind])
    assert plugin[0] <= LONGEST
    assert plugin[2].startswith(CATALOGUES[kind].partition("/")[0])
    assert test[2].startswith("tests/test_")
    assert not (ROOT / plugin[2]).exists()


@pytest.mark.slow
def test_what_the_diffs_add_works(tree: Tree) -> None:
    (tree.path / "tests/test_together.py").write_text(TOGETHER, encoding="utf-8")
    tests = sorted(path for path in tree.added if path.startswith("tests/"))
    rules = [
        f"tests/test_house.py::test_every_{rule}"
        for rule in ("catalogue_entry_resolves", "plugin_is_in_its_catalogue")
    ]
    plain = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist")
    said = tree.run("pytest", *plain, *tests, "tests/test_together.py", *rules)
    assert " passed" in said
    assert "skipped" not in said


def test_what_the_diffs_add_is_as_the_linter_wants_it(tree: Tree) -> None:
    tree.run("ruff", "check", "--no-cache", *tree.added, *CATALOGUES.values())
    tree.run("ruff", "format", "--check", "--no-cache", *tree.added)


def test_what_the_text_names_is_there(tree: Tree) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.MULTILINE)) <= targets
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)}|docs)/[\w./]*)`", TEXT))
    assert len(named) > len(CATALOGUES)
    assert {name for name in named if not ((tree.path / name).exists() or (ROOT / name).exists())} == set()
