"""What a report says of the machine: processor, instruction sets, threads, versions. Nothing heavy here."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diag.request import Request, own_version
from study.cores import allowed, cores
from study.record import JSON

PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "captum",
    "torch-pruning",
    "numpy",
    "polars",
    "scikit-learn",
)
RUNTIME_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "avx512_bf16", "asimddp", "i8mm")


def environment(request: Request) -> dict[str, JSON]:
    """All that would be needed to run the same again and to judge whether it is comparable."""
    return {
        "diag": own_version(),
        "command": request.typed,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": cpu(),
        "isa": list[JSON](isa()),
        "cores": cores(),
        "cores_allowed": allowed(),
        "smt": read_word("/sys/devices/system/cpu/smt/active"),
        "governor": read_word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "no_turbo": read_word("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "threads": request.machine.threads or cores(),
        "device": request.machine.device,
        "provider_asked": request.machine.provider,
        "seed": request.machine.seed,
        "versions": dict[str, JSON](versions()),
    }


def versions() -> dict[str, str]:
    """The libraries that compute, as installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def installed_runtimes() -> list[str]:
    """The distributions here that hold ``onnxruntime``; more than one is a broken installation."""
    found = []
    for package in RUNTIME_WHEELS:
        try:
            version(package)
        except PackageNotFoundError:
            continue
        found.append(package)
    return found


def two_runtimes() -> tuple[str, ...]:
    """What to do about two distributions of ONNX Runtime, in a sentence; nothing where there is one."""
    wheels = installed_runtimes()
    if len(wheels) < 2:  # noqa: PLR2004
        return ()
    named = " and ".join(wheels)
    said = f"{named} are both installed: one overwrites files of the other, and a GPU may be out of reach. "
    return (f"{said}Type: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}",)


def cpu() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def isa() -> list[str]:
    """The instruction sets that decide how fast int8 runs."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in ISA if flag in flags]


def read_word(file: str) -> str:
    """What a file of the kernel says; empty where it says nothing."""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
