"""Memory of devices: of torch's CUDA allocator, where the program has initialised it, and of the driver, by NVML."""

from __future__ import annotations

import sys
from typing import Any

from perfopt import _core


def _live_cuda() -> Any | None:
    """``torch.cuda`` if the program has imported torch and initialised CUDA, else None."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)  # torch may be half imported on another thread
    return cuda if is_initialized is not None and is_initialized() else None


def cuda_bytes() -> list[tuple[int, int, int]]:
    """``(allocated, reserved, total)`` of every CUDA device; empty without an initialised CUDA."""
    cuda = _live_cuda()
    if cuda is None:
        return []
    return [
        (
            int(cuda.memory_allocated(device)),
            int(cuda.memory_reserved(device)),
            int(cuda.get_device_properties(device).total_memory),
        )
        for device in range(cuda.device_count())
    ]


def device_memory() -> list[dict[str, Any]]:
    """``total``, ``used`` and ``free`` bytes of each NVIDIA device as the driver counts them, by NVML; empty without one.

    ``used`` is over all processes, with what CUDA contexts take, so it is more than torch's allocator reports. A device
    that refuses (lost, not permitted) keeps its place with None for the three and the driver's words as ``reason``, which
    is None otherwise. Torch is not needed and CUDA is not initialised. The first call opens the driver's library and takes
    milliseconds, as does the first one after a restart of the driver.
    """
    try:
        figures = _core.nvml_memory()
    except NotImplementedError:
        return []
    return [{"total": total, "used": used, "free": free, "reason": reason} for total, used, free, reason in figures]


def release_cuda() -> int:
    """Bytes of CUDA memory that torch's allocator gave back to the driver."""
    cuda = _live_cuda()
    if cuda is None:
        return 0
    before = sum(reserved for _, reserved, _ in cuda_bytes())
    cuda.empty_cache()
    return max(0, before - sum(reserved for _, reserved, _ in cuda_bytes()))
