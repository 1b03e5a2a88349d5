"""Training kernels on arrays, for code without torch: optimizer steps with unscaling and clipping, norm, casts, 8-bit blocks.

Arrays are ``numpy.ndarray`` (bfloat16 and 8-bit floats by ml_dtypes) or anything on the CPU with ``__dlpack__``, dense; several
of them are worked on as one piece, in parallel and with the GIL released.
Results have the same bits on any number of threads (``PERFOPT_NUM_THREADS``) and with every variant (``PERFOPT_CPU``).
"""

from __future__ import annotations

from perfopt._kernels_cast import cast, dequantize, quantize, unscale
from perfopt._kernels_steps import (
    GradientOptions,
    StepResult,
    adagrad_step,
    adam_step,
    adamw_step,
    lion_step,
    new_state,
    rmsprop_step,
    sgd_step,
)
from perfopt._train import grad_norm, variant

__all__ = [
    "GradientOptions",
    "StepResult",
    "adagrad_step",
    "adam_step",
    "adamw_step",
    "cast",
    "dequantize",
    "grad_norm",
    "lion_step",
    "new_state",
    "quantize",
    "rmsprop_step",
    "sgd_step",
    "unscale",
    "variant",
]
