"""A cached function that tells which calls reached it, for the tests of cache_result."""

from __future__ import annotations

from typing import Any

from perfopt.cache import cache_result


def counted(**options: Any) -> tuple[Any, list[Any]]:
    """A cached function of anything, and the list of calls that reached it."""
    calls: list[Any] = []

    @cache_result(**options)
    def function(*args: Any, **kwargs: Any) -> int:
        calls.append((args, kwargs))
        return len(calls)

    return function, calls


def figures(function: Any) -> tuple[int, int, int, int, int | None]:
    """hits, misses, evictions, currsize, maxsize"""
    info = function.cache_info()
    return info.hits, info.misses, info.evictions, info.currsize, info.maxsize
