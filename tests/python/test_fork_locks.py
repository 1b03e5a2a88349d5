"""Objects of the parent go on in a forked child, whoever held their locks."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from perfopt import _fork_locks
from perfopt._fork_locks import lock_of
from perfopt.profiling import CodeProfiler, create_profiler_config
from perfopt.profiling.gpu_profiler import GPUProfiler
from perfopt.profiling.io_traffic import IOTraffic
from perfopt.profiling.loaders import LoaderRecord
from perfopt.profiling.measure import Figures

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def exit_status_of_child(work: Callable[[], object]) -> int:
    """Of a child that works and ends; minus SIGALRM when it waits for ever."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_while_held(lock: Any, work: Callable[[], object]) -> int:
    """As exit_status_of_child(), forked while another thread holds the lock."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(60)
        return exit_status_of_child(work)
    finally:
        go_on.set()
        thread.join()


def use_figures(figures: Figures) -> None:
    figures.add("step", 1, 2, 3.0)
    assert "step" in figures.names()
    figures.clear()


def use_traffic(traffic: IOTraffic) -> None:
    traffic.reset()
    traffic.start()
    traffic.stop()
    traffic.get_stats()


def use_gpu(profiler: GPUProfiler) -> None:
    profiler.reset()
    assert profiler.operations() == []


def use_record(record: LoaderRecord) -> None:
    record.add_depth(3, None)
    assert record.depths == 1


def use_profiler(profiler: CodeProfiler) -> None:
    with profiler, profiler.profile("in the child"):
        pass
    assert "in the child" in {operation.name for operation in profiler.report().operations}
    profiler.reset()


def a_profiler() -> CodeProfiler:
    return CodeProfiler(create_profiler_config("basic"))


@pytest.mark.parametrize(
    ("make", "lock", "use"),
    [
        (Figures, "_lock", use_figures),
        (IOTraffic, "_lock", use_traffic),
        (GPUProfiler, "_lock", use_gpu),
        (lambda: LoaderRecord("loader", None), "lock", use_record),
        (a_profiler, "_lock", use_profiler),
    ],
    ids=["figures", "traffic", "gpu", "loader", "code profiler"],
)
def test_a_child_is_not_locked_out(make: Callable[[], Any], lock: str, use: Callable[[Any], None]) -> None:
    used = make()
    assert fork_while_held(getattr(used, lock), lambda: use(used)) == 0
    use(used)


def test_a_pool_of_tensors_goes_on_in_a_child() -> None:
    pytest.importorskip("torch")
    from perfopt.profiling.helpers import MemoryPool

    pool = MemoryPool(3, 2)
    assert fork_while_held(pool._lock, lambda: pool.return_tensor(pool.get())) == 0


def test_every_lock_of_a_code_profiler_held_at_once() -> None:
    profiler = a_profiler()
    locks = [
        profiler._lock,
        profiler._figures._lock,
        profiler.gpu_profiler._lock,
        profiler.io_profiler._lock,
    ]

    class All:
        def __enter__(self) -> None:
            for lock in locks:
                lock.acquire()

        def __exit__(self, *_: object) -> None:
            for lock in locks:
                lock.release()

    assert fork_while_held(All(), lambda: use_profiler(profiler)) == 0


def test_a_thread_that_forks_with_the_lock_itself_goes_on() -> None:
    figures = Figures()

    def work() -> None:
        use_figures(figures)
        grandchild = exit_status_of_child(lambda: use_figures(figures))
        assert grandchild == 0

    with figures._lock:
        assert exit_status_of_child(work) == 0
    use_figures(figures)


def test_two_locks_of_one_owner_are_both_renewed_and_the_parents_stay() -> None:
    class Owner:
        def __init__(self) -> None:
            self.first = lock_of(self, "first", threading.Lock)
            self.second = lock_of(self, "second", threading.RLock)

    owner = Owner()
    before = owner.first, owner.second

    def work() -> None:
        assert owner.first is not before[0]
        assert owner.second is not before[1]

    assert exit_status_of_child(work) == 0
    assert (owner.first, owner.second) == before


def test_an_owner_that_guards_its_attributes_is_renewed_and_keeps_no_other_from_it() -> None:
    class Guarded(Figures):
        def __setattr__(self, name: str, value: object) -> None:
            if "_by_name" in self.__dict__:  # it is made
                raise AttributeError(f"{name} cannot be set")
            super().__setattr__(name, value)

    guarded, later = Guarded(), Figures()

    def use_both() -> None:
        use_figures(later)
        with guarded._lock:
            pass

    class Both:
        def __enter__(self) -> None:
            guarded._lock.acquire()
            later._lock.acquire()

        def __exit__(self, *_: object) -> None:
            guarded._lock.release()
            later._lock.release()

    assert fork_while_held(Both(), use_both) == 0


def test_owners_are_not_kept() -> None:
    class Owner:
        pass

    owner = Owner()
    lock_of(owner, "lock", threading.Lock)
    key = (id(owner), "lock", threading.Lock)
    assert key in _fork_locks._owners
    del owner
    gc.collect()
    assert key not in _fork_locks._owners
