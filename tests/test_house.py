"""Rules of the house that no linter knows: catalogues are whole, the command is light, files short."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from study.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("study", "diagnose", "explain", "export", "diag")
CATALOGUES = {
    "diagnose.probe:PROBES": "Probe",
    "diagnose.check:CHECKS": "Check",
    "explain.method:METHODS": "Method",
    "export.change:PASSES": "Pass",
    "study.data.source:SOURCES": "Source",
    "study.runtime:RUNTIMES": "Runtime",
    "study.loading.weight_file:WEIGHT_FILES": "WeightFile",
    "study.loading.library:LIBRARIES": "Library",
    "study.tokens:TOKENIZERS": "Tokenizer",
    "study.reading:READINGS": "Reading",
}
"""Each with the abstract class of what it holds."""
PLUGIN_FOLDERS = {
    "diagnose/probes": "diagnose.probe:PROBES",
    "diagnose/checks": "diagnose.check:CHECKS",
    "explain/methods": "explain.method:METHODS",
    "export/passes": "export.change:PASSES",
    "study/runtimes": "study.runtime:RUNTIMES",
    "study/readings": "study.reading:READINGS",
    "study/tokenizers": "study.tokens:TOKENIZERS",
}
LONGEST = 350
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w+|\w+://[^\s'\"]*(?:pypi|pythonhosted)\.")
"""A folder that only one machine has, or a package registry."""


def catalogue(place: str) -> Catalog[object]:
    module, _, name = place.partition(":")
    found = getattr(import_module(module), name)
    assert isinstance(found, Catalog)
    return found


def entries() -> list[tuple[str, str]]:
    return [(place, name) for place in CATALOGUES for name in catalogue(place)]


@cache
def sources() -> tuple[tuple[Path, ast.Module], ...]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple((path, ast.parse(path.read_text("utf-8"))) for path in paths)


def classes_of(kind: str) -> set[str]:
    """``module:Class`` of every class that names ``kind`` as a parent, anywhere in the five packages."""
    found = set()
    for path, tree in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and kind in {ast.unparse(parent) for parent in node.bases}:
                found.add(f"{module}:{node.name}")
    return found


@pytest.mark.parametrize(("place", "name"), entries(), ids=lambda value: str(value).rpartition(":")[2])
def test_every_catalogue_entry_resolves(place: str, name: str) -> None:
    module, _, kind = place.partition(":")
    plugin = catalogue(place).get(name)
    assert issubclass(plugin, getattr(import_module(module), CATALOGUES[place]))
    assert not getattr(plugin, "__abstractmethods__", None)
    if kind in ("PROBES", "CHECKS", "METHODS", "PASSES"):
        assert is_dataclass(plugin)
        assert plugin.__dataclass_params__.frozen  # type: ignore[attr-defined]  # what dataclass() leaves there
        assert "__slots__" in vars(plugin)
        assert getattr(plugin, "__final__", False)
        assert (plugin.__doc__ or "").strip()


@pytest.mark.parametrize("place", CATALOGUES)
def test_every_plugin_is_in_its_catalogue(place: str) -> None:
    assert set(catalogue(place).entries.values()) == classes_of(CATALOGUES[place])


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS)
def test_a_plugin_folder_holds_plugins_only(folder: str) -> None:
    files = {f"{folder.replace('/', '.')}.{path.stem}" for path in (ROOT / folder).glob("*.py")}
    files.discard(f"{folder.replace('/', '.')}.__init__")
    assert files == {entry.partition(":")[0] for entry in catalogue(PLUGIN_FOLDERS[folder]).entries.values()}


def test_there_is_no_catalogue_that_these_tests_do_not_know() -> None:
    found = set()
    for path, tree in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Catalog["):
                found.add(f"{module}:{ast.unparse(node.target)}")
    assert found == set(CATALOGUES)


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "--help"]], ids=["import", "help", "run help"])
def test_the_command_is_light(words: list[str]) -> None:
    code = """
import json, sys
from diag.cli import main
words = json.loads(sys.argv.pop())
if words:
    sys.argv[1:] = words
    try:
        main()
    except SystemExit:
        pass
heavy = ("numpy", "torch", "polars", "onnx", "onnxruntime", "captum")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path, _ in sources()}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST} == {}


def test_no_file_knows_one_machine() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to the project cannot be told")
    found = []
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode("utf-8", errors="ignore")
            found += [f"{name}: {match.group()}" for match in OF_A_MACHINE.finditer(text)]
    assert found == []


def test_the_pattern_of_machines_finds_what_it_looks_for() -> None:
    assert OF_A_MACHINE.search("see " + "/ho" + "me/someone/model.pt")
    assert OF_A_MACHINE.search("htt" + "ps://py" + "pi.org/simple")
    assert not OF_A_MACHINE.search("network/homepage and docs/work/flow")
