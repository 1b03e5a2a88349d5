"""The code profiler as a whole: decorators, start and stop, report, bottlenecks, history, alerts."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from perfopt.profiling import (
    CodeProfiler,
    IOTraffic,
    ProfilerConfig,
    Thresholds,
    VideoOpusClipProfiler,
    create_profiler_config,
    load_profiling_reports,
    scheduled_profiling,
)
from perfopt.profiling.bottlenecks import KEYS
from perfopt.report import document


@pytest.fixture
def basic() -> CodeProfiler:
    return CodeProfiler(create_profiler_config("basic"))


@pytest.fixture
def detailed() -> CodeProfiler:
    return CodeProfiler(create_profiler_config("detailed"))


def operations(profiler: CodeProfiler) -> dict[str, dict[str, Any]]:
    return {row["name"].rpartition(".")[2]: row for row in profiler.get_comprehensive_report()["operations"]}


# ---- settings -------------------------------------------------------------------------------------


@pytest.mark.spec("S4-02", "S4-03")
def test_every_setting_has_a_default_and_may_be_given_alone() -> None:
    whole = ProfilerConfig()
    promised = ["enabled", "profile_level", "enable_cprofile", "enable_memory_profiler", "enable_gpu_profiler"]
    promised += ["profile_data_loading", "profile_preprocessing", "save_profiles", "output_dir", "detailed_reports"]
    for name in promised:
        assert getattr(ProfilerConfig(**{name: getattr(whole, name)}), name) == getattr(whole, name)
    production = ProfilerConfig(enabled=True, profile_level="basic", save_profiles=True, detailed_reports=False)
    assert production.output_dir == "profiles"
    assert production == create_profiler_config("basic", save_profiles=True)  # as light as its level


@pytest.mark.spec("S4-01")
def test_levels_really_differ() -> None:
    levels = [create_profiler_config(level) for level in ("basic", "detailed", "comprehensive")]
    switches = [
        (config.enable_memory_profiler, config.enable_gpu_profiler, config.enable_cprofile, config.trace)
        for config in levels
    ]
    assert switches == [(False, False, False, False), (True, True, False, False), (True, True, True, True)]
    assert [config.profile_level for config in levels] == ["basic", "detailed", "comprehensive"]
    assert create_profiler_config("basic", save_profiles=True).save_profiles


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: create_profiler_config("extreme"), ValueError, "level must be one of basic, detailed, comprehensive"),
        (lambda: create_profiler_config("basic", colour=1), TypeError, "colour"),
        (lambda: ProfilerConfig(profile_level="x"), ValueError, "profile_level must be one of"),
        (lambda: ProfilerConfig(enabled=1), TypeError, "enabled must be True or False, not 1"),
        (lambda: ProfilerConfig(output_dir=3), TypeError, "output_dir must be a path, not int"),
        (lambda: ProfilerConfig(thresholds={}), TypeError, "thresholds must be Thresholds, not dict"),
        (lambda: Thresholds(slow_function=-1), ValueError, "slow_function must be a finite number from 0"),
        (lambda: Thresholds(slow_function="1"), TypeError, "slow_function must be a number, not str"),
        (lambda: CodeProfiler("basic"), TypeError, "config must be a ProfilerConfig or None, not str"),
    ],
)
def test_wrong_settings_are_refused(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


# ---- decorators -----------------------------------------------------------------------------------


@pytest.mark.spec("S4-04", "S4-05", "S4-12")
def test_functions_are_recorded_between_start_and_stop_and_always_work(basic: CodeProfiler) -> None:
    assert VideoOpusClipProfiler is CodeProfiler

    @basic.profile_function
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert add(1) == 3
    basic.start_profiling()
    basic.start_profiling()
    assert [add(1), add(1, b=5)] == [3, 6]
    basic.stop_profiling()
    basic.stop_profiling()
    assert add(1) == 3
    assert operations(basic)["add"]["count"] == 2
    assert add.__doc__ == "Adds."
    assert add.__name__ == "add"


@pytest.mark.spec("S4-06")
def test_under_lru_cache_only_misses_are_counted(basic: CodeProfiler) -> None:
    @functools.lru_cache(maxsize=128)
    @basic.profile_function
    def square(x: int) -> int:
        return x * x

    with basic:
        assert [square(x) for x in (1, 2, 1, 2, 3)] == [1, 4, 1, 4, 9]
    assert operations(basic)["square"]["count"] == 3


@pytest.mark.spec("S4-07")
@pytest.mark.parametrize("level", ["basic", "detailed"])
def test_a_class_stays_usable_and_its_methods_are_recorded(level: str) -> None:
    profiler = CodeProfiler(create_profiler_config(level))

    class Base:
        def inherited(self) -> str:
            return "base"

    @profiler.profile_class
    class Model(Base):
        """A model."""

        limit = 3

        def __init__(self, width: int) -> None:
            self.width = width

        def forward(self, x: int) -> int:
            return x * self.width

        def process_batch(self, batch: list[int]) -> list[int]:
            return [self.forward(x) for x in batch]

        @staticmethod
        def helper() -> str:
            return "static"

        @classmethod
        def make(cls) -> Model:
            return cls(2)

        @property
        def double(self) -> int:
            return 2 * self.width

        def __repr__(self) -> str:
            return "Model"

    with profiler:
        model = Model.make()
        assert model.process_batch([1, 2, 3]) == [2, 4, 6]
        assert (Model.helper(), model.inherited(), model.double, repr(model)) == ("static", "base", 4, "Model")
    assert isinstance(model, Model)
    assert Model.__doc__ == "A model."
    counts = {name: row["count"] for name, row in operations(profiler).items()}
    assert counts == {"make": 1, "__init__": 1, "process_batch": 1, "forward": 3, "helper": 1}
    callers = operations(profiler)["forward"]["callers"]
    assert [(name.rpartition(".")[2], calls) for name, calls in callers.items()] == [("process_batch", 3)]


@pytest.mark.parametrize("level", ["basic", "detailed"])
def test_what_is_decorated_twice_is_counted_once_as_what_it_was_first(level: str) -> None:
    profiler = CodeProfiler(create_profiler_config(level, profile_preprocessing=True))

    @profiler.profile_class
    @profiler.profile_class
    class Model:
        @profiler.profile_preprocessing
        def prepare(self) -> int:
            return 1

        @staticmethod
        def step() -> int:
            return 2

    with profiler:
        assert (Model().prepare(), Model.step()) == (1, 2)
    rows = {str(row.name).rpartition(".")[2]: (row.count, row.kind) for row in profiler.report().operations}
    assert rows == {"prepare": (1, "preprocessing"), "step": (1, "function")}


def test_profile_class_refuses_a_class_whose_attributes_cannot_be_set(basic: CodeProfiler) -> None:
    class Frozen(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise AttributeError("frozen")

    class Model(metaclass=Frozen):
        def step(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"cannot set .*Model\.step: frozen"):
        basic.profile_class(Model)


def test_profile_class_refuses_what_is_no_class(basic: CodeProfiler) -> None:
    with pytest.raises(TypeError, match="profile_class decorates classes, not int: use profile_function"):
        basic.profile_class(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="profile_function decorates functions, not classes"):
        basic.profile_function(int)


@pytest.mark.spec("S4-10", "S4-11")
def test_preprocessing_and_augmentation_are_kinds_of_their_own(detailed: CodeProfiler) -> None:
    @detailed.profile_preprocessing
    def resize(x: int) -> int:
        return x

    @detailed.profile_augmentation
    def flip(x: int) -> int:
        return -x

    with detailed:
        assert flip(resize(2)) == -2
    kinds = {name: row["kind"] for name, row in operations(detailed).items()}
    assert kinds == {"resize": "preprocessing", "flip": "augmentation"}


def test_coroutines_and_generators_keep_their_kind(detailed: CodeProfiler) -> None:
    @detailed.profile_function
    async def wait() -> int:
        await asyncio.sleep(0)
        return 1

    @detailed.profile_function
    def count() -> Any:
        yield from range(3)

    with detailed:
        waiting = wait()
        waiting.send(None)
        begin = time.perf_counter()
        time.sleep(0.05)
        suspended = time.perf_counter() - begin
        with pytest.raises(StopIteration) as returned:
            waiting.send(None)
        assert returned.value.value == 1
        assert list(count()) == [0, 1, 2]
    rows = operations(detailed)
    assert rows["wait"]["total"] - rows["wait"]["active"] >= suspended * 0.999
    assert rows["count"]["count"] == 1


def test_exceptions_pass_through_and_are_counted(detailed: CodeProfiler) -> None:
    @detailed.profile_function
    def fail() -> None:
        raise KeyError("x")

    with detailed, pytest.raises(KeyError):
        fail()
    assert operations(detailed)["fail"]["count"] == 1


def test_a_disabled_profiler_leaves_functions_as_they_are() -> None:
    profiler = CodeProfiler(ProfilerConfig(enabled=False))

    def work() -> int:
        return 1

    assert profiler.profile_function(work) is work
    assert profiler.profile_preprocessing(work) is work
    profiler.start_profiling()
    assert not profiler.running
    assert profiler.identify_bottlenecks() == {key: [] for key in KEYS}


def test_parts_switched_off_leave_functions_as_they_are(basic: CodeProfiler) -> None:
    def work() -> int:
        return 1

    assert basic.profile_preprocessing(work) is work
    assert basic.profile_augmentation(work) is work


def test_threads_are_counted_exactly(detailed: CodeProfiler) -> None:
    @detailed.profile_function
    def work() -> None:
        pass

    def many() -> None:
        for _ in range(200):
            work()

    with detailed:
        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert operations(detailed)["work"]["count"] == 1600


# ---- memory ---------------------------------------------------------------------------------------


@pytest.mark.spec("S4-17", "S4-24", "S4-25", "S4-48")
def test_memory_of_blocks_and_functions(detailed: CodeProfiler) -> None:
    kept = []

    @detailed.memory_profiler.profile_memory_usage
    def load() -> None:
        kept.append(b"x" * (150 * 2**20))

    with detailed:
        with detailed.memory_profiler.memory_context("block"):
            block = b"y" * (60 * 2**20)
        load()
    del block
    stats = detailed.memory_profiler.get_stats()["operations"]
    assert 55 * 2**20 < stats["block"]["allocated"] < 90 * 2**20
    found = detailed.identify_bottlenecks()["memory_intensive_functions"]
    assert [entry["name"].rpartition(".")[2] for entry in found] == ["load"]
    assert found[0]["greatest_bytes"] > 140 * 2**20
    assert "more than 100 MB" in found[0]["evidence"]


def test_memory_that_comes_and_goes_within_a_call_is_seen(detailed: CodeProfiler) -> None:
    sampler = detailed.memory_profiler.sampler

    @detailed.profile_function
    def burst() -> None:
        block = b"x" * (200 * 2**20)
        taken = sampler.taken
        until(lambda: sampler.taken >= taken + 2)
        del block

    with detailed:
        burst()
    memory = operations(detailed)["burst"]["memory"]
    assert memory["greatest"] > 150 * 2**20
    assert memory["total"] < 50 * 2**20


@pytest.mark.spec("S4-27", "S4-48")
def test_the_collector_is_watched_between_start_and_stop(detailed: CodeProfiler) -> None:
    with detailed:
        gc.collect()
        for _ in range(10):
            cycle: list[Any] = []
            cycle.append(cycle)
        del cycle
        gc.collect()
    gc.collect()
    figures = detailed.memory_profiler.get_stats()["collector"]
    assert figures["generation_2"] == 2
    assert figures["collected"] >= 10
    assert figures["seconds"] > 0
    assert detailed.memory_profiler.collector._note not in gc.callbacks


@pytest.mark.spec("S4-26")
def test_leaks_have_a_verdict(detailed: CodeProfiler) -> None:
    with detailed:
        time.sleep(0.05)
    leak = detailed.memory_profiler.get_stats()["leak"]
    assert leak["verdict"] == "insufficient"
    assert detailed.report().memory is not None


@pytest.mark.spec("S4-21", "S4-47")
def test_processor_time_is_told_from_waiting(detailed: CodeProfiler) -> None:
    @detailed.profile_function
    def sleep() -> None:
        time.sleep(0.1)

    with detailed:
        sleep()
    row = operations(detailed)["sleep"]
    assert row["total"] >= 0.1
    assert row["cpu_seconds"] < row["total"] / 2


# ---- bottlenecks and reports ----------------------------------------------------------------------


@pytest.mark.spec("S4-15")
def test_all_five_keys_are_there_before_the_start(basic: CodeProfiler) -> None:
    assert basic.identify_bottlenecks() == {
        "slow_functions": [],
        "memory_intensive_functions": [],
        "slow_data_loading": [],
        "slow_preprocessing": [],
        "slow_gpu_operations": [],
    }


@pytest.mark.spec("S4-16", "S4-19", "S0-41")
def test_thresholds_are_strict_and_can_be_set() -> None:
    config = create_profiler_config("basic", thresholds=Thresholds(slow_function=0.02), profile_preprocessing=True)
    profiler = CodeProfiler(config)

    @profiler.profile_function
    def slow() -> None:
        time.sleep(0.03)

    @profiler.profile_function
    def fast() -> None:
        pass

    @profiler.profile_preprocessing
    def prepare() -> None:
        time.sleep(0.03)

    with profiler:
        slow()
        for _ in range(200):
            fast()
        prepare()
    found = profiler.identify_bottlenecks()
    assert [entry["name"].rpartition(".")[2] for entry in found["slow_functions"]] == ["slow"]
    assert found["slow_preprocessing"] == []
    entry = found["slow_functions"][0]
    assert entry["mean"] > entry["threshold"] == 0.02
    assert 0 < entry["share"] < 1
    assert entry["gain_bound"] == pytest.approx(1 / (1 - entry["share"]))
    assert entry["advice"]


@pytest.mark.spec("S4-13", "S4-14", "S4-41")
def test_reports_are_saved_where_the_configuration_says(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "profiles"
    profiler = CodeProfiler(create_profiler_config("basic", output_dir=folder, save_profiles=True))

    @profiler.profile_function
    def work() -> None:
        pass

    for _ in range(2):
        with profiler:
            work()
    reports = load_profiling_reports(folder)
    assert [report.operations[0].count for report in reports] == [1, 2]
    assert reports[1].tree == []
    assert reports[1].operations[0].histogram is None
    path = profiler.save_comprehensive_report(tmp_path / "mine.json")
    assert document.load(path).operations[0].count == 2
    json.dumps(profiler.get_comprehensive_report())


def test_the_comprehensive_level_has_stacks_traffic_and_a_trace(tmp_path: Path) -> None:
    profiler = CodeProfiler(create_profiler_config("comprehensive", output_dir=tmp_path))

    def undecorated() -> int:
        return sum(range(100))

    @profiler.profile_function
    def work() -> int:
        (tmp_path / "file").write_bytes(b"x" * 100_000)
        return undecorated()

    with profiler:
        work()
    report = profiler.get_comprehensive_report()
    assert "undecorated" in {row["function"] for row in report["extra"]["call_stacks"]}
    assert report["extra"]["io"]["written"] >= 100_000
    assert report["recording"]["spans"] >= 1
    assert list(tmp_path.glob("profile-*.pstats"))


@pytest.mark.spec("S4-22")
def test_call_stacks_never_push_another_profiler_out() -> None:
    profiler = CodeProfiler(create_profiler_config("basic", enable_cprofile=True))

    def theirs(*_: object) -> None: ...

    sys.setprofile(theirs)
    try:
        profiler.start_profiling()
        assert sys.getprofile() is theirs
        profiler.stop_profiling()
        assert sys.getprofile() is theirs
    finally:
        sys.setprofile(None)
    assert profiler.get_comprehensive_report()["notes"] == [
        f"call stacks were not recorded: another profiler is active: {theirs!r}"
    ]


@pytest.mark.spec("S4-23")
def test_traffic_between_start_and_stop(tmp_path: Path) -> None:
    profiler = CodeProfiler(create_profiler_config("basic", enable_io_profiler=True))
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    with profiler:
        path.read_bytes()
    stats = profiler.io_profiler.get_stats()
    assert 1_000_000 <= stats["read"] < 2_000_000
    assert stats["written"] < 500_000
    path.read_bytes()
    assert profiler.io_profiler.get_stats() == stats
    assert {"network_received", "network_sent"} <= stats.keys()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_its_own_traffic_from_zero(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))  # the parent's counters are ahead of any child's
    traffic = IOTraffic()
    traffic.start()
    (tmp_path / "before").write_bytes(bytes(500_000))
    before = traffic.get_stats()
    child = os.fork()
    if child == 0:
        try:
            (tmp_path / "child").write_bytes(bytes(200_000))
            first = traffic.get_stats()
            (tmp_path / "child").write_bytes(bytes(100_000))
            (tmp_path / "figures").write_text(json.dumps([first, traffic.get_stats()]))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    first, second = json.loads((tmp_path / "figures").read_text())
    assert 200_000 <= first["written"] - before["written"] < 300_000
    assert 100_000 <= second["written"] - first["written"] < 200_000
    assert all(before[name] <= first[name] <= second[name] for name in before)
    assert 300_000 <= traffic.get_stats()["written"] - before["written"] < 500_000  # the child's once it was waited for


def test_reset_forgets_and_goes_on(detailed: CodeProfiler) -> None:
    @detailed.profile_function
    def work() -> None:
        pass

    detailed.start_profiling()
    work()
    detailed.reset()
    work()
    detailed.stop_profiling()
    assert operations(detailed)["work"]["count"] == 1


# ---- history --------------------------------------------------------------------------------------


@pytest.mark.spec("S4-39")
def test_scheduled_profiling_saves_logs_and_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profiler = CodeProfiler(create_profiler_config("basic", output_dir=tmp_path))
    work = profiler.profile_function(lambda: 7)
    with caplog.at_level(logging.INFO, logger="perfopt.profiling"):
        assert scheduled_profiling(profiler, work, runs=3) == [7, 7, 7]
    assert len(load_profiling_reports(tmp_path)) == 3
    assert len([record for record in caplog.records if "0 slow functions" in record.message]) == 3
    with pytest.raises(ValueError, match="runs must be an int from 1, not 0"):
        scheduled_profiling(profiler, work, runs=0)
    with pytest.raises(ValueError, match="every must be a finite number"):
        scheduled_profiling(profiler, work, every=-1)


def test_a_schedule_ends_with_its_workloads_exception_and_when_told(tmp_path: Path) -> None:
    profiler = CodeProfiler(create_profiler_config("basic", output_dir=tmp_path))

    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        scheduled_profiling(profiler, fail, runs=3)
    assert len(load_profiling_reports(tmp_path)) == 1
    assert not profiler.running
    stop = threading.Event()
    assert scheduled_profiling(profiler, stop.set, runs=5, every=0.01, stop=stop) == [None]


@pytest.mark.spec("S4-34")
def test_regressions_raise_an_alert() -> None:
    profiler = CodeProfiler(create_profiler_config("basic", detailed_reports=True))
    pause = 0.002

    @profiler.profile_function
    def work() -> None:
        time.sleep(pause)

    with profiler:
        for _ in range(60):
            work()
    baseline = profiler.report()
    alerts: list[Any] = []
    profiler.on_regression(alerts.append, baseline)
    profiler.reset()
    before = next(row.mean for row in baseline.operations if row.name.endswith("work"))
    pause = max(0.030, 5 * before)  # on a busy machine 2 ms may have been any time
    with profiler:
        for _ in range(60):
            work()
    assert [row.name.rpartition(".")[2] for row in alerts[0]] == ["work"]
    assert alerts[0][0].verdict == "slower"
    with pytest.raises(TypeError, match="callback must be callable, not int"):
        profiler.on_regression(3, baseline)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="before must hold at least one report"):
        profiler.on_regression(alerts.append, [])


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, perfopt.profiling; print(sorted({'torch', 'numpy', 'pandas', 'plotly'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _in_child(profiler: CodeProfiler) -> None:
    with profiler.profile("in the child"):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_children_report_and_a_reset_leaves_their_reports_behind(detailed: CodeProfiler) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with detailed:
        for expected in (1, 2):
            child = context.Process(target=_in_child, args=(detailed,))
            child.start()
            child.join()
            assert operations(detailed)["in the child"]["count"] == expected
        detailed.reset()
        assert "in the child" not in operations(detailed)
        child = context.Process(target=_in_child, args=(detailed,))
        child.start()
        child.join()
    assert operations(detailed)["in the child"]["count"] == 1
    assert detailed.report().recording.missing_processes == 0


@pytest.mark.spec("S4-46")
def test_the_eight_examples_run_and_find_what_they_say() -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "code_profiling_examples.py"
    spec = importlib.util.spec_from_file_location("code_profiling_examples", path)
    assert spec is not None
    assert spec.loader is not None
    examples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(examples)
    assert len(examples.EXAMPLES) == 8
    results = {example.__name__: example() for example in examples.EXAMPLES}
    assert results["basic_function_profiling"]["total_functions"] == 2
    assert results["class_profiling"] == {"__init__": 1, "process_batch": 1, "forward": 3}
    assert results["data_loading_profiling"]["loader"]["batches"] == 8
    assert results["memory_profiling"]["operations"]["data_processing"]["calls"] == 1
    assert set(results["gpu_profiling"]) >= {"available", "reason", "operations"}
    assert "normalize" in results["preprocessing_profiling"]
    assert "undecorated" in results["comprehensive_profiling"]
    calls = {when: calls for when, (calls, _) in results["bottleneck_optimization"].items()}
    assert calls == {"before": 6, "after": 2}
