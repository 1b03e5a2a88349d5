"""The ``optimize_memory`` decorator: memory is given back before and after each call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from perfopt import _wrapping
from perfopt._memory_clean import Report, clean, clean_under_pressure
from perfopt._memory_usage import checked_threshold

__all__ = ["optimize_memory"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def optimize_memory(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def optimize_memory(*, threshold: float | None = None) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def optimize_memory(function: Any = None, /, *, threshold: float | None = None) -> Any:
    """Decorator: memory is optimised before and after each call, as by :meth:`perfopt.MemoryOptimizer.optimize_memory`.

    Bare (``@optimize_memory``) it cleans at every call. With ``@optimize_memory(threshold=0.8)`` it cleans, before and
    after each on its own, only when there is pressure at that share of a limit. The cleaning after the call also
    happens when it raises. Works on functions, methods (also over staticmethod and classmethod), ``async def``,
    generators and async generators (there around the whole iteration). Each cleaning takes milliseconds: decorate
    phases, not inner loops.

    The function gets an attribute ``memory_reports``: a dict whose ``before`` and ``after`` are what the two cleanings of
    the last call that ended gave back, as :meth:`perfopt.MemoryOptimizer.optimize_memory` reports it (None: no pressure,
    so none).

    Raises TypeError for something that cannot be called and for a class, ValueError for a threshold outside (0, 1].
    """
    if threshold is None:
        cleaning: Callable[[], Report] = clean
    else:
        cleaning = functools.partial(clean_under_pressure, checked_threshold(threshold))
    if function is None:
        return functools.partial(_wrap, clean=cleaning)
    return _wrap(function, cleaning)


class _Cleaned:
    """A block with a cleaning before it and one after it, also when it raises; their reports go to the function."""

    __slots__ = ("_before", "_clean", "_reports")

    def __init__(self, clean: Callable[[], Report], reports: dict[str, Report]) -> None:
        self._clean = clean
        self._reports = reports

    def __enter__(self) -> None:
        self._before = self._clean()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        after: Report
        try:
            after = self._clean()
        except RuntimeError as problem:  # looking at a broken CUDA context must not hide the error that broke it
            if error is None:
                raise
            after = {"cuda_error": str(problem)}
        self._reports.update(before=self._before, after=after)


def _wrap(function: Any, clean: Callable[[], Report]) -> Any:
    def wrap(plain: Any) -> Any:
        reports: dict[str, Report] = {"before": None, "after": None}
        wrapped = _wrapping.around(plain, functools.partial(_Cleaned, clean, reports))
        wrapped.memory_reports = reports
        return wrapped

    return _wrapping.decorate("optimize_memory decorates functions and methods", function, wrap)
