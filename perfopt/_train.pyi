"""Training kernels of perfopt on NumPy arrays and on tensors by data pointer."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, SupportsFloat, final

import numpy as np
from numpy.typing import NDArray

def variant() -> str: ...
def grad_norm(grads: Sequence[Any]) -> tuple[float, bool]: ...
def step_arrays(
    operation: str,
    lists: tuple[Any, ...],
    options: dict[str, Any],
    step: float,
    first: bool,
    max_grad_norm: float,
    inv_scale: float,
    found_inf: bool,
    skip_nonfinite: bool,
    threads: int,
    /,
) -> tuple[float, bool, float]: ...
def clip_grads_norm(grads: list[Any], max_norm: float, keep_nonfinite: bool, /) -> tuple[float, bool, bool]: ...
def scale_grads(grads: list[Any], factor: float, /) -> bool: ...
def clamp_grads(grads: list[Any], low: float, high: float, /) -> bool: ...
def convert(
    source: NDArray[Any],
    source_dtype: str,
    source_scales: NDArray[np.float32] | None,
    out: NDArray[Any],
    out_dtype: str,
    out_scales: NDArray[np.float32] | None,
    saturate: bool,
    stochastic: bool,
    seed: int,
    stream: int,
    /,
) -> None: ...
def scale(array: NDArray[Any], dtype: str, factor: float, /) -> bool: ...
def from_dlpack(object: Any, name: str, /) -> tuple[NDArray[Any], str]: ...

@final
class OptimizerPlan:
    """Checked plan over the parameters and state of a torch-style optimizer."""

    def __new__(
        cls,
        operation: str,
        param_groups: list[dict[str, Any]],
        state: dict[Any, Any],
        fresh: AbstractSet[Any] | None = None,
    ) -> OptimizerPlan: ...
    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Any, Any],
        max_grad_norm: float | None,
        skip_nonfinite: bool,
        stream: int = 0,
        /,
        *,
        found_inf: SupportsFloat | None = None,
        grad_scale: SupportsFloat | None = None,
        ema_decay: SupportsFloat | None = None,
        zero_grads: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        rounding_step: Any = 0,
    ) -> tuple[float, bool, float] | None: ...
    def seal(self, holder: dict[str, Any], /) -> bool: ...
    def unseal(self, /) -> None: ...
    def start(self, workspace: Any, stream: int, /) -> None: ...
    def read(self, stream: int, /) -> tuple[float, float, bool, int, int]: ...
    @property
    def device(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def nonfinite_word(self) -> int: ...
    def written(self, /) -> tuple[Any, ...]: ...
