"""One file a model format, and the sniffer that picks it; what is refused, and why."""

from study.loading.eager import load_module, save_module
from study.loading.sniff import identify
from study.loading.tensors import tensors

__all__ = ["identify", "load_module", "save_module", "tensors"]
