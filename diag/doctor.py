"""``diag doctor``: what this machine can do, and what stands in the way."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from diag.environment import cpu, installed_runtimes, isa, versions
from study.cores import cores
from study.progress import Progress
from study.worker import Child

LEAST_FREE = 2 << 30


@dataclass(frozen=True, slots=True)
class Ailment:
    """What stands in the way, and what to type."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Devices:
    """What really runs models here, as the libraries say when they are opened and not when they are asked."""

    cuda: tuple[str, ...]
    providers: tuple[str, ...]
    claimed: tuple[str, ...]


def examine(*, as_json: bool) -> None:
    """Print the facts, then the ailments."""
    with tempfile.TemporaryDirectory() as folder, Child("doctor", Path(folder) / "log.txt") as worker:
        devices: Devices = worker.call(find_devices, progress=Progress())
    facts = {
        "cpu": cpu(),
        "isa": ", ".join(isa()) or "none that quantization gains from",
        "cores": str(cores()),
        "cuda": ", ".join(devices.cuda) or "none",
        "ONNX Runtime runs on": ", ".join(devices.providers),
        "free disk": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB",
        **versions(),
    }
    ailments = find_ailments(devices)
    if as_json:
        print(json.dumps({"facts": facts, "ailments": [asdict(one) for one in ailments]}, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    print()
    for one in ailments:
        print(f"! {one.what}\n  {one.do}")
    if not ailments:
        print("Nothing stands in the way.")


def find_devices(_progress: Progress) -> Devices:
    """Ask torch and ONNX Runtime, in a process of their own."""
    import onnxruntime
    import torch

    cuda = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    usable = dict.fromkeys(device.ep_name for device in onnxruntime.get_ep_devices())
    return Devices(cuda, tuple(usable), tuple(onnxruntime.get_available_providers()))


def find_ailments(devices: Devices) -> list[Ailment]:
    """What is known to spoil results."""
    found = []
    wheels = installed_runtimes()
    if len(wheels) > 1:
        found.append(
            Ailment(
                f"{' and '.join(wheels)} are both installed: one overwrites files of the other.",
                f"Type: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}",
            )
        )
    if devices.cuda and "CUDAExecutionProvider" not in devices.providers:
        found.append(
            Ailment(
                "torch sees a CUDA device and ONNX Runtime cannot use it.",
                "Install the libraries it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        )
    if shutil.disk_usage(".").free < LEAST_FREE:
        found.append(Ailment("Less than 2 GiB of disk are free here.", "Use --out on another disk."))
    return found
