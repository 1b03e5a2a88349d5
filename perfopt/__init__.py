"""perfopt: caching, profiling, memory monitoring and fused training kernels, in C, for people who train models.

``import perfopt`` loads no torch; ``perfopt.optim`` and everything else that needs torch is loaded when it is first used.
"""

from __future__ import annotations

from perfopt._version import __version__

__all__ = [
    "__version__",
]
