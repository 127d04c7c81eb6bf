"""What several tests share."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny import Files, write

# How long an example takes is the machine's business, which others may use: no test fails by the clock.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and models that lies beside the checkout; the test is skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout: its real models and data are not at hand")
    return folder


@pytest.fixture(scope="session")
def tiny_cnn(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small CNN on 8x8 digits, with its data."""
    return write(tmp_path_factory.mktemp("tiny_cnn"), "cnn")


@pytest.fixture(scope="session")
def tiny_mlp(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small MLP on 8x8 digits, with its data."""
    return write(tmp_path_factory.mktemp("tiny_mlp"), "mlp")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with numpy and onnxruntime alone."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("numpy", "onnxruntime"):
        spec = find_spec(name)
        assert spec is not None
        home = Path(str(spec.origin)).parent
        for one in home.parent.glob(f"{name}*"):
            if one.name in (name, f"{name}.libs"):
                (folder / one.name).symlink_to(one)
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands work in this process: no time is spent on starting others."""
    from study.worker import Inline

    for module in ("diag.flow", "diag.racing", "diag.estimate"):
        monkeypatch.setattr(f"{module}.Child", lambda _name, _log, _preload=(), _environment=None: Inline())


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning does not time its model as ONNX beside the unpruned one, which takes two exports."""
    from export.pruning.targets import Bench
    from study.errors import SkipError

    def refuse(*_: object) -> Bench:
        raise SkipError("no test needs it")

    monkeypatch.setattr(Bench, "of", refuse)
