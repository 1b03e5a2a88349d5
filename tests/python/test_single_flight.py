"""Single flight of cached functions: threads that miss one key at once, what fails, circles, forks and signals."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from waiting import Meeting

from perfopt.cache import PerformanceCache, cache_result

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # on purpose


def together(functions: list[Callable[[], Any]]) -> list[Any]:
    """What each function returned or raised, each in a thread of its own; fails if one hangs."""
    outcomes: list[Any] = [None] * len(functions)

    def run(at: int) -> None:
        try:
            outcomes[at] = functions[at]()
        except BaseException as error:
            outcomes[at] = error

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return outcomes


class Key:
    """Equal by number, by Python code that lets other threads in."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        time.sleep(0)
        return self.number

    def __eq__(self, other: object) -> bool:
        time.sleep(0)
        return isinstance(other, Key) and self.number == other.number


@pytest.mark.parametrize(
    "make", [lambda: 5, lambda: Key(5), lambda: [np.arange(50), "text"]], ids=["int", "object", "content"]
)
def test_a_thousand_threads_compute_once(make: Callable[[], Any]) -> None:
    calls = []

    @cache_result
    def function(x: Any) -> Any:
        calls.append(1)
        time.sleep(0.2)
        return np.arange(3)

    outcomes = together([lambda: function(make())] * 1000)
    assert len(calls) == 1
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert not outcomes[0].flags.writeable
    info = function.cache_info()  # type: ignore[attr-defined]
    assert (info.hits, info.misses, info.currsize) == (999, 1, 1)


def test_different_keys_do_not_wait_for_each_other() -> None:
    barrier = threading.Barrier(8)

    @cache_result
    def function(x: int) -> int:
        barrier.wait(60)
        return x

    assert together([lambda x=x: function(x) for x in range(8)]) == list(range(8))  # type: ignore[misc]


def test_switched_off() -> None:
    barrier = threading.Barrier(4)

    @cache_result(single_flight=False)
    def function(x: int) -> list[int]:
        barrier.wait(60)
        return [x]

    outcomes = together([lambda: function(1)] * 4)
    assert outcomes == [[1]] * 4
    assert all(outcome is outcomes[0] for outcome in outcomes), "what came first stays"
    assert function.cache_info().misses == 4  # type: ignore[attr-defined]
    assert function.cache_parameters()["single_flight"] is False  # type: ignore[attr-defined]


def test_a_cache_that_stores_nothing_shares_nothing() -> None:
    barrier = threading.Barrier(3)

    @cache_result(max_size=0)
    def function(x: int) -> int:
        return barrier.wait(60)

    assert sorted(together([lambda: function(1)] * 3)) == [0, 1, 2]


def test_private_copies() -> None:
    meeting = Meeting()

    @cache_result(copy=True)
    def function(x: Any) -> Any:
        meeting.others(4)
        return np.zeros(3)

    outcomes = together([lambda: function(meeting.key())] * 5)
    for at, outcome in enumerate(outcomes):
        outcome[:] = at
    assert [int(outcome[0]) for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert int(function(meeting.key())[0]) == 0
    assert function.cache_info().misses == 1  # type: ignore[attr-defined]


# ---- failures -----------------------------------------------------------------------------------------------------------------


def test_an_exception_reaches_everyone() -> None:
    calls = []
    meeting = Meeting()

    @cache_result
    def function(x: Any) -> int:
        calls.append(x)
        meeting.others(19)
        raise ValueError(f"try {len(calls)}")

    outcomes = together([lambda: function(meeting.key())] * 20)
    assert len(calls) == 1
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert isinstance(outcomes[0], ValueError)
    assert "in function" in "".join(traceback.format_tb(outcomes[-1].__traceback__))
    with pytest.raises(ValueError, match="try 2"):  # an exception is not kept
        function(meeting.key())


def test_an_exception_for_everyone_gathers_no_frames_or_context_of_those_who_wait() -> None:
    meeting, begun = Meeting(), threading.Event()
    lengths, contexts = [], set()

    @cache_result
    def slow(x: Any) -> None:
        begun.set()
        meeting.others(30)
        raise ValueError("for all")

    def first() -> None:
        with pytest.raises(ValueError, match="for all"):
            slow(meeting.key())

    def other() -> None:
        try:
            raise KeyError("the business of this thread alone")
        except KeyError:
            try:
                slow(meeting.key())
            except ValueError as error:
                contexts.add(error.__context__)
                lengths.append(len(traceback.extract_tb(sys.exc_info()[2])))

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert begun.wait(60)
    threads += [threading.Thread(target=other) for _ in range(30)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(lengths) == 30
    assert max(lengths) <= 3
    assert contexts == {None}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_stays_with_its_thread(kind: type[BaseException]) -> None:
    calls = []
    meeting = Meeting()

    @cache_result
    def function(x: Any) -> str:
        calls.append(x)
        if len(calls) == 1:
            meeting.others(9)
            raise kind
        return "value"

    outcomes = together([lambda: function(meeting.key())] * 10)
    assert len(calls) == 2, "one waiter takes over"
    assert sum(isinstance(outcome, kind) for outcome in outcomes) == 1
    assert outcomes.count("value") == 9


def test_errors_of_cache_if_reach_everyone() -> None:
    meeting = Meeting()

    @cache_result(cache_if=lambda result: 1 / result)
    def function(x: Any) -> int:
        meeting.others(4)
        return 0

    outcomes = together([lambda: function(meeting.key())] * 5)
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert all(outcome is outcomes[0] for outcome in outcomes)
    assert function.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_what_is_not_kept_is_handed_to_those_who_wait() -> None:
    calls = []
    meeting = Meeting()

    @cache_result(cache_if=lambda result: result is not None)
    def function(x: Any) -> Any:
        calls.append(x)
        meeting.others(9)
        return x if x == 1 else None

    assert together([lambda: function(meeting.key())] * 10) == [None] * 10
    assert (len(calls), function.cache_info().currsize) == (1, 0)  # type: ignore[attr-defined]
    assert [function(meeting.key()), function(1), function(1)] == [None, 1, 1]
    assert len(calls) == 3


# ---- circles ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_circles_of_waiting(length: int) -> None:
    """Thread i computes key i and asks for key i + 1: who would close the circle computes itself."""
    barrier = threading.Barrier(length)
    begun: list[int] = []

    @cache_result
    def function(at: int) -> int:
        begun.append(at)
        if len(begun) > length:
            return 100  # the second computation of a key, by the one who did not wait
        barrier.wait(60)
        return function((at + 1) % length) + 1

    outcomes = together([lambda at=at: function(at) for at in range(length)])  # type: ignore[misc]
    assert len(begun) == length + 1
    assert sorted(outcomes) == list(range(100, 100 + length)), "what was kept first stays, also for its own thread"
    assert function.cache_info().currsize == length  # type: ignore[attr-defined]


def test_a_circle_over_two_functions() -> None:
    barrier = threading.Barrier(2)
    entered: list[str] = []

    @cache_result
    def left(x: int) -> str:
        entered.append("left")
        if entered.count("left") > 1:
            return "alone"
        barrier.wait(60)
        return "left of " + right(x)

    @cache_result
    def right(x: int) -> str:
        entered.append("right")
        if entered.count("right") > 1:
            return "alone"
        barrier.wait(60)
        return "right of " + left(x)

    outcomes = together([lambda: left(1), lambda: right(1)])
    assert outcomes in (["alone", "right of alone"], ["left of alone", "alone"])
    assert len(entered) == 3


def test_recursion_while_others_wait() -> None:
    @cache_result
    def function(n: int) -> int:
        time.sleep(0.01)
        return n if n < 2 else function(n - 1) + function(n - 2)

    assert together([lambda n=n: function(n) for n in range(20)] * 2)[19] == 4181  # type: ignore[misc]
    assert function.cache_info().misses == 20  # type: ignore[attr-defined]


# ---- clearing and invalidating in mid-flight ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["invalidate", "cache_clear"])
def test_what_began_before_is_handed_out_but_not_kept(action: str) -> None:
    source = ["old"]
    meeting = Meeting()
    go = threading.Event()

    @cache_result
    def function(x: Any) -> str:
        value = source[0]
        if value == "old":
            go.wait(60)
        return value

    results: list[str] = []
    early = [threading.Thread(target=lambda: results.append(function(meeting.key()))) for _ in range(3)]
    for thread in early:
        thread.start()
    meeting.others(2)
    source[0] = "new"
    if action == "invalidate":
        assert function.invalidate(meeting.key()) is False  # type: ignore[attr-defined]
        assert function.invalidate(2) is False  # type: ignore[attr-defined]
    else:
        function.cache_clear()  # type: ignore[attr-defined]
    assert function(meeting.key()) == "new", "a later caller does not wait for what began before"
    go.set()
    for thread in early:
        thread.join(60)
    assert results == ["old"] * 3
    assert function(meeting.key()) == "new"
    assert function.cache_info().currsize == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", ["invalidate", "cache_clear"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_what_began_before_is_not_kept_without_single_flight_either(action: str, is_async: bool, shared: bool) -> None:
    forget: list[Callable[[], object]] = []

    def compute(x: int) -> int:
        for call in forget:
            call()
        return x

    async def compute_later(x: int) -> int:
        return compute(x)

    cache = PerformanceCache() if shared else None
    function: Any = cache_result(cache=cache, single_flight=False)(compute_later if is_async else compute)
    call = (lambda x: asyncio.run(function(x))) if is_async else function
    forget.append(lambda: getattr(function, action)(*[1] * (action == "invalidate")))
    assert call(1) == 1
    assert function.cache_info().currsize == 0
    assert call(2) == 2
    assert function.cache_info().currsize == (action == "invalidate"), "another key's is none of its business"
    forget.clear()
    assert call(1) == 1
    assert function.cache_info().currsize == 1 + (action == "invalidate")


def test_clearing_a_shared_cache_reaches_what_its_functions_compute() -> None:
    cache = PerformanceCache()
    clears = [cache.clear]

    @cache_result(cache=cache)
    def function(x: int) -> int:
        for clear in clears:
            clear()
        return x

    assert function(1) == 1
    assert len(cache) == 0
    clears.clear()
    assert function(1) == 1
    assert len(cache) == 1


# ---- re-entrancy --------------------------------------------------------------------------------------------------------------


class Meddler:
    """Equal to its like; every comparison runs code."""

    action: Callable[[], object] = staticmethod(lambda: None)

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        Meddler.action()
        return isinstance(other, Meddler)


@pytest.fixture
def meddler() -> Any:
    yield Meddler
    Meddler.action = staticmethod(lambda: None)


def test_comparisons_with_a_key_in_flight_run_code(meddler: Any) -> None:
    """__eq__ against the key being computed calls the function, clears it, raises."""
    go, begun = threading.Event(), threading.Event()

    @cache_result
    def function(x: Any) -> Any:
        if isinstance(x, Meddler):
            begun.set()
            go.wait(60)
        return [x]

    thread = threading.Thread(target=function, args=(Meddler(),))
    thread.start()
    begun.wait(60)

    def fails() -> None:
        raise OSError("from __eq__")

    for action in (lambda: function(3), function.cache_clear, lambda: function.invalidate(3)):  # type: ignore[attr-defined]
        Meddler.action = action
        assert function("another") == ["another"]
    Meddler.action = fails
    holder: list[Any] = []

    @cache_result
    def second(x: Any) -> Any:
        with pytest.raises(OSError, match="from __eq__"):
            second(Meddler())
        holder.append(x)
        return 1

    assert second(Meddler()) == 1
    assert len(holder) == 1
    Meddler.action = staticmethod(lambda: None)
    go.set()
    thread.join(60)


def test_finalizers_of_arguments_and_errors_use_the_cache() -> None:
    seen: list[int] = []

    class Loud:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

        def __del__(self) -> None:
            seen.append(function(1))

    @cache_result
    def function(x: Any) -> int:
        if isinstance(x, Loud):
            raise ValueError
        return 5

    def call() -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            function(Loud())

    together([call] * 8)
    gc.collect()
    assert set(seen) == {5}


# ---- references ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_held_after_landing() -> None:
    class Value:
        pass

    meeting = Meeting()

    @cache_result(max_size=1)
    def function(x: Any) -> Any:
        meeting.others(9)
        return Value()

    keys = [meeting.key() for _ in range(10)]
    before = [sys.getrefcount(key) for key in keys]
    outcomes = together([functools.partial(function, key) for key in keys])
    gone = weakref.ref(outcomes[0])
    outcomes.clear()
    function.cache_clear()  # type: ignore[attr-defined]
    gc.collect()
    assert gone() is None
    assert [sys.getrefcount(key) for key in keys] == before


def test_an_instance_is_not_kept_alive_by_its_flights() -> None:
    meeting = Meeting()

    class Thing:
        @cache_result
        def method(self, x: Any) -> int:
            meeting.others(4)
            return 1

    thing = Thing()
    assert together([lambda method=thing.method: method(meeting.key())] * 5) == [1] * 5
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
    assert Thing.method.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_the_function_may_drop_its_own_cache_while_others_wait() -> None:
    holder: list[Any] = []
    meeting = Meeting()

    def body(x: Any) -> list[int]:
        holder.clear()
        meeting.others(4)
        return [1]

    holder.append(cache_result(body))
    functions = [holder[0]] * 5
    assert together([lambda f=f: f(meeting.key()) for f in functions]) == [[1]] * 5  # type: ignore[misc]


# ---- signals and forks --------------------------------------------------------------------------------------------------------


def run_slow(meeting: Meeting) -> tuple[Any, threading.Thread, threading.Event]:
    """A cached function of which the meeting's key is being computed in another thread until the event is set."""
    go, begun = threading.Event(), threading.Event()
    process = os.getpid()

    @cache_result
    def slow(x: Any) -> str:
        begun.set()
        if os.getpid() == process:
            go.wait(60)
        return "value"

    thread = threading.Thread(target=slow, args=(meeting.key(),))
    thread.start()
    assert begun.wait(60)
    return slow, thread, go


@contextlib.contextmanager
def signalled_while_waiting(number: int, handler: Callable[[], object], meeting: Meeting) -> Iterator[None]:
    """Within it handler() runs in the main thread, once, as the handler of a signal that comes after this thread has asked.

    The signal is sent until it was handled: one that comes in the moment before the thread sleeps does not wake it, nor would
    it wake a wait of the interpreter itself.
    """
    handled = threading.Event()

    def handle(*_: object) -> None:
        if not handled.is_set():
            handled.set()
            handler()

    def send() -> None:
        meeting.others(1)
        while not handled.is_set():
            os.kill(os.getpid(), number)
            handled.wait(0.05)

    before = signal.signal(number, handle)
    sender = threading.Thread(target=send, daemon=True)
    try:
        sender.start()
        yield
    finally:
        sender.join(60)
        signal.signal(number, before)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_signal_ends_the_wait_of_the_main_thread() -> None:
    meeting = Meeting()
    slow, thread, go = run_slow(meeting)
    with signalled_while_waiting(signal.SIGINT, interrupt, meeting), pytest.raises(KeyboardInterrupt):
        slow(meeting.key())
    go.set()
    thread.join(60)
    assert slow(meeting.key()) == "value"
    assert slow.cache_info().misses == 1


def test_a_signal_handler_that_returns_does_not_end_it() -> None:
    meeting = Meeting()
    slow, thread, go = run_slow(meeting)
    handled: list[Any] = []

    def handler() -> None:
        go.set()
        handled.append(slow(2))  # a handler may use the cache

    with signalled_while_waiting(signal.SIGUSR1, handler, meeting):
        assert slow(meeting.key()) == "value"
    thread.join(60)
    assert handled == ["value"]


def in_child(body: Callable[[], object]) -> int:
    """Exit code of a forked child that runs body: 0 when it returned true; a hang is killed by its alarm."""
    process = os.fork()
    if process == 0:
        code = 3
        try:
            signal.alarm(30)
            code = 0 if body() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    meeting = Meeting()
    slow, thread, go = run_slow(meeting)
    assert in_child(lambda: slow(meeting.key()) == "value" and slow.cache_info().misses == 2) == 0
    go.set()
    thread.join(60)
    assert slow.cache_info().misses == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_signal_handler_forks_and_calls_while_the_main_thread_waits() -> None:
    parent = os.getpid()
    meeting = Meeting()
    slow, thread, go = run_slow(meeting)
    codes: list[int] = []

    def handler() -> None:
        process = os.fork()
        if process == 0:
            signal.alarm(30)
            slow(meeting.key())
        else:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            go.set()

    with signalled_while_waiting(signal.SIGUSR1, handler, meeting):
        try:
            result = slow(meeting.key())
        finally:
            if os.getpid() != parent:  # the wait of the interrupted code ends in the child, too
                os._exit(0 if result == "value" else 1)
    thread.join(60)
    assert (result, codes) == ("value", [0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_fork_in_the_middle_of_ones_own_computation() -> None:
    parent = os.getpid()
    codes: list[int] = []

    @cache_result
    def function(x: int) -> int:
        if x == 0:
            return 0
        process = os.fork()
        if process == 0:  # the child goes on with the computation, and its threads wait for it
            return function(0) + 1
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        return function(0) + 1

    result = function(1)
    if os.getpid() != parent:
        os._exit(0 if result == 1 and function(1) == 1 and together([lambda: function(1)] * 3) == [1] * 3 else 1)
    assert codes == [0]
    assert result == 1
