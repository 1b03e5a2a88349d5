"""The logger with timers: it logs as a logger does, and what it times are ranges of a profiler."""

from __future__ import annotations

import logging
import time

import pytest

from perfopt.logger import get_logger
from perfopt.profiler import PerformanceProfiler, default_profiler, timer


@pytest.mark.spec("S3-37", "S3-38", "S3-39")
def test_timers_have_their_mean_in_seconds() -> None:
    logger = get_logger()
    for _ in range(3):
        with logger.timer("model_inference"):
            time.sleep(0.01)
    figures = logger.get_stats()["timers"]["model_inference"]
    assert figures["count"] == 3
    assert 0.01 <= figures["min"] <= figures["mean"] <= figures["max"]
    assert figures["mean"] == pytest.approx(figures["total"] / 3)
    with timer("model_inference"):  # the same timers, without a logger
        pass
    assert get_logger("another").get_stats()["timers"]["model_inference"]["count"] == 4
    assert default_profiler().get_profile_summary()["operations"]["model_inference"]["count"] == 4


def test_a_profiler_of_ones_own_keeps_timers_apart() -> None:
    own = PerformanceProfiler()
    logger = get_logger("mine", profiler=own)
    with pytest.raises(KeyError), logger.timer("fails"):
        raise KeyError
    assert list(logger.get_stats()["timers"]) == ["fails"]
    assert own.get_profile_summary()["operations"]["fails"]["count"] == 1


@pytest.mark.spec("S3-37")
def test_it_logs_as_the_logger_of_that_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="perfopt.test"):
        get_logger("perfopt.test").info("loss %.1f", 0.5)
        get_logger("perfopt.test").debug("not at this level")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("perfopt.test", "loss 0.5")]


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="profiler must be a PerformanceProfiler or None, not str"):
        get_logger("x", profiler="y")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a str, not int"):
        get_logger(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        timer(3)  # type: ignore[arg-type]
