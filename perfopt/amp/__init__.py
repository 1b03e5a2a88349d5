"""Loss scaling and gradient clipping for torch on perfopt's kernels; importing this package imports torch."""

from __future__ import annotations

from perfopt.amp.clip import clip_grad_norm_, clip_grad_value_, found_nonfinite
from perfopt.amp.scaler import GradScaler

__all__ = ["GradScaler", "clip_grad_norm_", "clip_grad_value_", "found_nonfinite"]
