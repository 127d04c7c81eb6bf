"""The wheel holds the five packages and nothing else, installs, and gives a working ``diag``."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed: the wheel cannot be built")
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("study", "diagnose", "explain", "export", "diag")
TORCH_BUILDS = ("nvidia-", "cuda-", "triton")
"""What torch itself asks for: another set for each of its builds."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def project() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_wheel_holds_the_five_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.startswith("diag/render/templates/") and name.endswith(".html") for name in names)


def test_the_wheel_installs_and_gives_a_working_command(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def said(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    for package in PACKAGES:
        place = said(sys.executable, "-c", f"import {package}; print({package}.__file__)").strip()
        assert Path(place).is_relative_to(site), "the test looked at the checkout, not at the wheel"
    help_text = said(sys.executable, str(site / "bin" / "diag"), "--help")
    assert all(
        command in help_text for command in ("analyze", "explain", "export", "benchmark", "run", "demo")
    )


def test_exactly_one_onnxruntime_is_required(project: dict[str, dict[str, list[str]]]) -> None:
    wanted = [Requirement(line) for line in project["project"]["dependencies"]]
    for platform in ("linux", "darwin", "win32"):
        chosen = [
            one.name
            for one in wanted
            if one.name.startswith("onnxruntime")
            and (one.marker is None or one.marker.evaluate({"sys_platform": platform}))
        ]
        assert chosen == ["onnxruntime" if platform == "darwin" else "onnxruntime-gpu"]


def test_the_constraints_pin_all_that_is_asked_for(
    project: dict[str, dict[str, list[str]]], pins: dict[str, str]
) -> None:
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate():
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert pins["torch"] == "2.13.0"
    assert list(pins) == sorted(pins)
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", pin) for pin in pins.values()), "no local parts, no paths"


def test_the_constraints_pin_what_those_ask_for(
    project: dict[str, dict[str, list[str]]], pins: dict[str, str]
) -> None:
    """Everything that is reached from our requirements in this environment has a pin."""
    waiting = [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]
    seen: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        seen.add(str(requirement))
        if name.startswith(TORCH_BUILDS):
            continue
        assert name in pins, f"constraints.txt has no {name}=={version(name)}"
        wanted = [Requirement(line) for line in requires(name) or []]
        for extra in ("", *requirement.extras):
            waiting += [str(one).partition(";")[0] for one in wanted if holds(one, extra)]


def holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
