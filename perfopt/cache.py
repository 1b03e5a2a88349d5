"""Caching: :func:`cache_result` for functions, :class:`PerformanceCache` for key-value pairs, :func:`fingerprint` for content.

**Keys.** Every key part is typed: ``1``, ``1.0``, ``True``, ``"1"`` and ``b"1"`` are five keys. NumPy arrays, torch tensors
and containers of them are keyed by all of their content (XXH3-128), never by a sample, a ``repr`` or an ``id``. Other
hashable objects count by their own hash and equality, and objects that are only equal to themselves by identity (cached
functions hold those weakly, and their entries go when they die). Floats count by their bits: a NaN equals the same NaN, and
``-0.0`` differs from ``0.0``. Dicts and sets count without regard to order. An ``nn.Module`` counts with its classes, modes,
plain settings and state.

**Values.** NumPy arrays are kept as read-only views, so that nobody changes the cache by accident; every caller, the first
included, gets the same read-only array. The array that the function itself made is not frozen: a function that keeps it and
writes to it later changes the cached value too, so it should return a copy then. ``copy=True`` gives every caller a private,
writable copy instead. A cached tensor that was modified in place (its version counter moved) is a miss. ``None`` is a value. An
exception is not cached.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeVar, cast, overload

from perfopt import _core
from perfopt._core import fingerprint
from perfopt._performance_cache import PerformanceCache

__all__ = ["CacheInfo", "PerformanceCache", "cache_result", "fingerprint"]

F = TypeVar("F", bound=Callable[..., Any])


class CacheInfo(NamedTuple):
    """Figures of one cached function, of its own calls and entries alone where it shares a cache with others.

    hits, misses: calls answered without and with running the function (those that waited for another caller's run are hits).
    evictions, expirations: entries that left to make room, or because their time was over.
    rejects: results that were too large to keep, or that could not be stored on disk.
    currsize, bytes: entries in memory and what they count for; maxsize, max_bytes: their bounds, None for none. Values are
    measured only where there is a bound on bytes. The bounds of a shared cache hold for all that is in it.
    hash_seconds, load_seconds, compute_seconds: time spent on reading arguments whose content counts (arrays and containers of
    them), on loading results from disk, and in the function; calls that it makes to itself count in their callers, too.
    """

    hits: int
    misses: int
    evictions: int
    expirations: int
    rejects: int
    currsize: int
    maxsize: int | None
    bytes: int
    max_bytes: int | None
    hash_seconds: float
    load_seconds: float
    compute_seconds: float


@dataclasses.dataclass(frozen=True)
class _Options:
    """What cache_result() was given."""

    name: str | None
    cache: PerformanceCache | None
    max_size: int | None
    max_bytes: int | None
    ttl: float | datetime.timedelta | None
    policy: str
    persist: bool
    cache_dir: str | os.PathLike[str] | None
    version: str | int | None
    key: Callable[..., Any] | None
    ignore: str | Iterable[str]
    copy: bool
    single_flight: bool
    cache_if: Callable[[Any], Any] | None
    allow_pickle: bytes | Literal[False]

    def check(self) -> None:
        """Raises what is wrong whatever the function is."""
        for name in ("persist", "copy", "single_flight"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key must be a function of the arguments, not {self.key!r}")
        if self.cache_if is not None and not callable(self.cache_if):
            raise TypeError(f"cache_if must be a function of the result, not {self.cache_if!r}")
        if inspect.iscoroutinefunction(self.cache_if):
            raise TypeError("cache_if must be a plain function, not a coroutine function, which is always true")
        if self.version is not None and (not isinstance(self.version, (str, int)) or isinstance(self.version, bool)):
            raise TypeError(f"version must be a str or an int, not {self.version!r}")
        if self.cache is not None:
            self._check_shared(self.cache)
        elif self.persist and self.cache_dir is None:
            raise ValueError(
                "persist=True needs a place on disk: give cache_dir=, or cache= a PerformanceCache that has one"
            )

    def _check_shared(self, cache: PerformanceCache) -> None:
        if not isinstance(cache, PerformanceCache):
            raise TypeError(f"cache must be a PerformanceCache, not {type(cache).__name__}")
        for name, default in _OWN_CACHE.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} is a matter of the shared cache: give it to PerformanceCache(), not with cache="
                )
        if self.persist and cache.cache_dir is None:
            raise ValueError(
                "persist=True needs a place on disk, but the PerformanceCache given as cache= has no cache_dir"
            )

    def make_cache(self) -> PerformanceCache:
        """The shared cache, or a new one for one function."""
        if self.cache is not None:
            return self.cache
        return PerformanceCache(
            self.max_size,
            self.cache_dir if self.persist else None,
            max_bytes=self.max_bytes,
            ttl=self.ttl,
            policy=self.policy,
            allow_pickle=self.allow_pickle,
        )


_OWN_CACHE = {"max_size": 1000, "max_bytes": None, "policy": "lru", "cache_dir": None, "allow_pickle": False}


_METHODS = ("cache_info", "cache_clear", "cache_parameters", "invalidate")


def _parameter_names(function: Callable[..., Any]) -> tuple[tuple[str, ...] | None, int, int]:
    """(names, how many by position, how many by position only); names are None where they cannot stand for every argument."""
    if not isinstance(function, types.FunctionType):
        return None, 0, 0
    code = function.__code__
    if code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return None, 0, 0
    count = code.co_argcount + code.co_kwonlyargcount
    if count > 64:  # PFO_MAX_BOUND_NAMES of call_key.h
        return None, 0, 0
    return code.co_varnames[:count], code.co_argcount, code.co_posonlyargcount


def _check_ignore(ignore: str | Iterable[str], function: Callable[..., Any]) -> tuple[str, ...]:
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"ignore must hold parameter names, not {name!r}")
    parameters = inspect.signature(function).parameters if names else {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    for name in names:
        if name not in parameters:
            raise ValueError(f"ignore: {name!r} is no parameter of {function!r}; it has {', '.join(parameters)}")
        if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            raise ValueError(f"ignore: *{name} cannot be ignored; use key=")
    if _parameter_names(function)[0] is None and any(
        parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY for name in names
    ):
        raise ValueError(
            "ignore: with *args, or more than 64 parameters, only keyword-only parameters can be ignored; use key="
        )
    return names


def _is_method_of_a_class(function: Callable[..., Any]) -> bool:
    """Whether a function is written in a class body: behind another decorator it is not told by ``__set_name__``."""
    outer = str(getattr(function, "__qualname__", "")).rpartition(".")[0]
    names = _parameter_names(function)[0]
    return bool(outer) and not outer.endswith("<locals>") and bool(names) and names is not None and names[0] == "self"


def _body_of(function: Callable[..., Any]) -> Any:
    """The function that a call runs: of an object with ``__call__``, that method."""
    if inspect.isroutine(function) or isinstance(function, (type, functools.partial)):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004


def _label(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _identity(function: Callable[..., Any], name: str | None, version: str | int | None) -> tuple[str, bytes]:
    """What the entries on disk are called, and what their keys begin with: whose results these are, in every process."""
    from perfopt._code_identity import code_identity, module_of

    module, program = module_of(function)
    label = f"{module}.{_label(function)}" if name is None else name
    tag: tuple[Any, ...] = ("code", code_identity(function)) if version is None else ("version", version)
    if name is None and version is not None and program is not None:
        tag = (*tag, program)
    identity = fingerprint("perfopt.cache_result", label, tag)
    return _disk_label(label), identity


def _disk_label(label: str) -> str:
    """What only the entries of functions with this label are called on disk.

    It ends like no label of a PerformanceCache's own key (cache_type.c), and comes back whole: a label on disk ends at a zero
    byte, and at PFO_DISK_LABEL (disk.h), 200 bytes. Lone surrogates are no UTF-8 and are written as their escapes.
    """
    text = label.encode(errors="backslashreplace")
    if len(text) > 180 or "\0" in label or text.decode() != label:
        label = text.partition(b"\0")[0][:140].decode(errors="ignore") + " " + fingerprint(label).hex()
    return label + "()"


def _decorate(function: Any, options: _Options) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_decorate(function.__func__, options))
    if not callable(function):
        raise TypeError(f"cache_result decorates a function, not {function!r}")
    body = _body_of(function)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(
            f"cache_result cannot cache the generator function {_label(body)}(): a generator is used up by its "
            "first reader; return a list or a tuple instead"
        )
    names, positional, positional_only = _parameter_names(function)
    ignored = _check_ignore(options.ignore, function)
    cache = options.make_cache()
    parameters = {
        "name": _label(function) if options.name is None else options.name,
        "max_size": cache.max_size,
        "max_bytes": cache.max_bytes,
        "ttl": options.ttl,
        "policy": cache.policy,
        "persist": options.persist,
        "version": options.version,
        "ignore": ignored,
        "copy": options.copy,
        "single_flight": options.single_flight,
    }
    cached = _core.CachedFunction(
        function,
        cache=cache,
        shared=options.cache is not None,
        ttl=options.ttl,
        identity=_identity(function, options.name, options.version) if options.persist else None,
        names=names,
        positional=positional,
        positional_only=positional_only,
        ignored=ignored or None,
        key=options.key,
        copies=options.copy,
        keep_if=options.cache_if,
        single_flight=options.single_flight,
        info_type=CacheInfo,
        parameters=parameters,
    )
    if _is_method_of_a_class(function):
        cached.__set_name__(None, function.__name__)
    if inspect.iscoroutinefunction(body):
        from perfopt._cached_async import wrap_coroutine_function  # asyncio, which only those pay for who use it

        return wrap_coroutine_function(cached, function, options.single_flight)
    functools.update_wrapper(cached, function)
    for name in _METHODS:  # of another cache around function, which update_wrapper() has copied
        cached.__dict__.pop(name, None)
    return cached


@overload
def cache_result(name: F, /) -> F: ...
@overload
def cache_result(
    name: str | None = None,
    *,
    cache: PerformanceCache | None = None,
    max_size: int | None = 1000,
    max_bytes: int | None = None,
    ttl: float | datetime.timedelta | None = None,
    policy: str = "lru",
    persist: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    version: str | int | None = None,
    key: Callable[..., Any] | None = None,
    ignore: str | Iterable[str] = (),
    copy: bool = False,
    single_flight: bool = True,
    cache_if: Callable[[Any], Any] | None = None,
    allow_pickle: bytes | Literal[False] = False,
) -> Callable[[F], F]: ...
def cache_result(
    name: Any = None,
    *,
    cache: PerformanceCache | None = None,
    max_size: int | None = 1000,
    max_bytes: int | None = None,
    ttl: float | datetime.timedelta | None = None,
    policy: str = "lru",
    persist: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    version: str | int | None = None,
    key: Callable[..., Any] | None = None,
    ignore: str | Iterable[str] = (),
    copy: bool = False,
    single_flight: bool = True,
    cache_if: Callable[[Any], Any] | None = None,
    allow_pickle: bytes | Literal[False] = False,
) -> Any:
    """Cache what a function returns, keyed by its arguments; bare, ``@cache_result("name")``, or with keywords.

    What is kept, and how much of it:

    name: a label for reports, and for the keys on disk; the function's module and qualified name if not given.
    cache: a :class:`PerformanceCache` to share with others, in place of a cache of its own; no key of one function ever meets one
        of another. Its bounds, policy and disk tier are those of the shared cache.
    max_size: entries kept, at least 0 (0 stores nothing); ``None`` for no bound.
    max_bytes: bytes kept, measured on the results; ``None`` for no bound.
    ttl: seconds after which an entry is no longer good, on a clock that no change of the time of day moves; ``None`` for never.
        On disk the wall clock counts. A ttl that is added later holds for the entries already there, too.
    policy: which entry leaves first: ``"lru"``, the least recently used one, or another name that PerformanceCache knows.
    cache_if: a function of the result; where it answers false the result is returned, but not kept. What it raises, the call
        raises.
    copy: give every caller a private copy instead of the one kept object.

    What a key is:

    key: a function of the same arguments (for a method: without ``self``) whose result is the key instead of the arguments.
    ignore: names of parameters that are no part of the key.

    On disk:

    persist: keep results on disk, too, for other processes and runs. Arguments then count by their content, and so does the
        instance of a method: what has none raises TypeError.
    cache_dir: the directory, unless cache= has one.
    version: what tells results of one version of the function from those of another. A function in ``__main__`` without a name is
        then also told from those of other programs, by the path of the script or the module that is run. If not given it is a
        hash of the function's code: byte code, constants, names, defaults, what its closure holds and the state of an object
        that is called, which is the same in every process of one minor version of Python; what in it cannot be told apart by
        content raises TypeError. It does not see the functions that it calls, nor globals: change the version when those change.
    allow_pickle: the key (bytes) that authenticates pickles, for results that no safe format can hold.

    A result that cannot be stored is still returned and kept in memory; it counts in ``rejects``, with a warning once for each
    function. With allow_pickle, what a result's own ``__reduce__`` or ``__getstate__`` raises, the call raises.

    Together:

    single_flight: of all threads that miss one key at once one computes, and the others wait for its result; if it raises an
        Exception, they raise the same one (a KeyboardInterrupt stays in its thread, and another one takes over). Calls that would
        wait for themselves, directly or around a circle of threads, compute on their own. With ``max_size=0`` nothing is shared.

    Positional and keyword spelling of an argument are the same key, except in functions with ``*args`` or ``**kwargs`` and
    in callables written in C; a default left out and the same value written out are two keys. See the module's text for what
    counts as equal, and for arrays and tensors as values.

    Works on functions, methods, ``classmethod`` and ``staticmethod`` in either order. A method's instance is held weakly, counts
    by identity (with persist: by content), and its entries go when it dies. Of ``async def`` functions the awaited value is kept.
    Under asyncio one task for each key and loop computes it for all its callers, in the context of the first; it is cancelled
    with the last of them. Elsewhere (trio) pass ``single_flight=False``.

    The wrapper has ``__wrapped__`` and is pickled by its name. Its methods:

    ``cache_info()``: figures, a :class:`CacheInfo`.
    ``cache_clear()``: forgets this function's entries in memory, those on disk too if it persists (of all versions under its
    name), and sets its figures to 0.
    ``cache_parameters()``: what was given here, as a dict.
    ``invalidate(*args, **kwargs)``: forgets the result for these arguments, in memory and on disk; True if there was one. What is
    being computed when it, or cache_clear(), is called goes to those who wait for it, but is not kept.

    Raises TypeError for generator functions, and, when called, for a result that is a generator or a coroutine (unless cache_if
    keeps it out), and for an argument that can be neither hashed nor read, naming it;
    ValueError for options that contradict each other.
    """
    is_bare = name is not None and not isinstance(name, str)
    if is_bare and not (callable(name) or isinstance(name, (staticmethod, classmethod))):
        raise TypeError(f"name must be a str, not {name!r}")
    options = _Options(
        name=None if is_bare else name,
        cache=cache,
        max_size=max_size,
        max_bytes=max_bytes,
        ttl=ttl,
        policy=policy,
        persist=persist,
        cache_dir=cache_dir,
        version=version,
        key=key,
        ignore=ignore,
        copy=copy,
        single_flight=single_flight,
        cache_if=cache_if,
        allow_pickle=allow_pickle,
    )
    options.check()
    if is_bare:
        return _decorate(name, options)

    def decorator(function: F) -> F:
        return cast(F, _decorate(function, options))

    return decorator
