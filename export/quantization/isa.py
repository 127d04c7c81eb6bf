"""Which integers this machine multiplies well."""

import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True, slots=True)
class IntegerTypes:
    """The types of activations and weights that onnxruntime advises for a CPU.

    Without VNNI, x86 adds two products of eight bits in sixteen and saturates, so weights get seven bits.
    """

    signed_activations: bool
    reduce_range: bool
    isa: str

    @classmethod
    def of_this_machine(cls) -> "IntegerTypes":
        """By the CPU's own list of features; where it cannot be read, the careful choice."""
        if platform.machine().lower() in ("arm64", "aarch64"):
            return cls(signed_activations=True, reduce_range=False, isa="arm64")
        flags = set(CPUINFO.read_text(encoding="utf-8").split()) if CPUINFO.exists() else set()
        found = [flag for flag in DOT_PRODUCTS if flag in flags]
        return cls(
            signed_activations=False, reduce_range=not found, isa=found[0] if found else "x86 without VNNI"
        )

    @property
    def words(self) -> dict[str, str]:
        """For the provenance."""
        return {
            "activations": "int8" if self.signed_activations else "uint8",
            "weights": "int8 with a range of 7 bits" if self.reduce_range else "int8",
            "chosen for": self.isa,
        }
