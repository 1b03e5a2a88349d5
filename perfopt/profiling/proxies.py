"""Objects that stand for another one: same attributes, same length, same ``isinstance``, with a few methods of their own.

A :class:`Proxy` has exactly those special methods that its object has (``len(proxy)`` fails where ``len(object)`` does, and
``hasattr`` and ``collections.abc`` say the same of both), so libraries that look choose the same way for both.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ["Proxy"]

_PASSED_ON = (
    "__len__", "__length_hint__", "__bool__", "__contains__", "__reversed__", "__getitem__", "__setitem__", "__delitem__",
    "__iter__", "__next__", "__call__", "__enter__", "__exit__", "__array__", "__add__", "__radd__",
)  # fmt: skip


class Proxy:
    """Stands for ``wrapped`` (``__wrapped__`` gives it). Special methods that a subclass defines are there always;
    those that it names in ``own`` only where the wrapped object has a method of that name."""

    __slots__ = ("__weakref__", "_perfopt_wrapped")
    own: ClassVar[dict[str, Callable[..., Any]]] = {}
    _perfopt_wrapped: Any

    def __new__(cls, wrapped: Any, *args: Any, **kwargs: Any) -> Proxy:
        """An instance of the subclass that has the wrapped object's special methods."""
        names = [name for name in _PASSED_ON if getattr(type(wrapped), name, None) is not None]
        names += [name for name in cls.own if name not in names and getattr(wrapped, name, None) is not None]
        methods: Any = _with_methods  # to mypy the property __class__ below makes classes unhashable
        proxy: Proxy = object.__new__(methods(cls, tuple(name for name in names if name not in vars(cls))))
        return proxy

    def __init__(self, wrapped: Any) -> None:
        object.__setattr__(self, "_perfopt_wrapped", wrapped)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The wrapped object's, so that ``isinstance`` holds for it; the proxy's own class is ``type(proxy)``."""
        return object.__getattribute__(self, "_perfopt_wrapped").__class__

    @property
    def __wrapped__(self) -> Any:
        return self._perfopt_wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_perfopt_wrapped"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._perfopt_wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._perfopt_wrapped, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._perfopt_wrapped), *dir(type(self))})

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle or copy {self!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._perfopt_wrapped!r})"


@functools.cache
def _with_methods(cls: type[Proxy], names: tuple[str, ...]) -> type[Proxy]:
    """The subclass with the special methods of those names: the proxy's own ones, or passed on."""
    methods = {name: cls.own.get(name) or _passing_on(name) for name in names}
    return type(
        cls.__name__, (cls,), {"__slots__": (), "__module__": cls.__module__, "__doc__": cls.__doc__, **methods}
    )


def _passing_on(name: str) -> Callable[..., Any]:
    if name == "__add__":
        return _add

    def passed_on(self: Proxy, *args: Any) -> Any:
        wrapped = self._perfopt_wrapped
        return getattr(type(wrapped), name)(wrapped, *args)

    return passed_on


def _add(self: Proxy, other: Any) -> Any:
    """Torch's data sets add up to a concatenation of both operands: the proxy has to be in it, or its half goes unseen."""
    wrapped = self._perfopt_wrapped
    add = type(wrapped).__add__
    return add(self if isinstance(add, types.FunctionType) else wrapped, other)
