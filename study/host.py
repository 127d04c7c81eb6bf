"""Arrays of any framework, brought to the host as numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_numpy(array: Any) -> NDArray[Any]:
    """Any of our arrays as numpy, on the host; bfloat16, which numpy lacks, becomes float32."""
    if isinstance(array, np.ndarray):
        return array
    detached = array.detach() if hasattr(array, "detach") else array
    on_host = detached.cpu() if hasattr(detached, "cpu") else detached
    if str(getattr(on_host, "dtype", "")) == "torch.bfloat16":
        on_host = on_host.float()
    return np.asarray(on_host)
