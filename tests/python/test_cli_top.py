"""``perfopt top`` and what a process publishes for it."""

from __future__ import annotations

import contextlib
import os
import pty
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from perfopt.cli import main
from perfopt.profiling import CodeProfiler, create_profiler_config
from perfopt.profiling.publish import publish, published_file
from perfopt.report import document


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"perfopt-{os.getuid()}"


@pytest.fixture
def profiler() -> CodeProfiler:
    made = CodeProfiler(create_profiler_config("basic"))
    made.start_profiling()
    with made.profile("[bold]step[/bold]"):
        pass
    return made


def wait_for(condition: object, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_figures_are_published_again_and_again_and_removed_at_the_end(profiler: CodeProfiler, own_folder: Path) -> None:
    with publish(profiler, every=0.05) as publisher:
        assert publisher.path == own_folder / f"{os.getpid()}.json" == published_file(os.getpid())
        assert stat.S_IMODE(own_folder.stat().st_mode) == 0o700
        with profiler.profile("later"):
            pass
        assert wait_for(lambda: len(document.load(publisher.path).operations) == 2)
        assert publisher.error is None
    assert list(own_folder.iterdir()) == []
    publisher.close()


def test_once_prints_a_table(profiler: CodeProfiler) -> None:
    with publish(profiler):
        result = CliRunner().invoke(main, ["top", str(os.getpid())], catch_exceptions=False)
    assert result.exit_code == 0
    assert "[bold]step[/bold]" in result.output
    assert "resident" in result.output


def test_a_file_can_be_watched_too(profiler: CodeProfiler, tmp_path: Path) -> None:
    with publish(profiler, path=tmp_path / "live.json"):
        assert CliRunner().invoke(main, ["top", "--once", str(tmp_path / "live.json")]).exit_code == 0


def test_nothing_to_watch_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["top", "999999999"])
    assert result.exit_code == 2
    assert "nothing is published by 999999999: call perfopt.profiling.publish(profiler) in it" in result.output
    (tmp_path / "bad.json").write_text("{")
    result = CliRunner().invoke(main, ["top", str(tmp_path / "bad.json")])
    assert result.exit_code == 2
    assert "not a perfopt report" in result.output


def test_a_folder_that_others_may_enter_is_refused(profiler: CodeProfiler, own_folder: Path) -> None:
    own_folder.mkdir(mode=0o755)
    own_folder.chmod(0o755)
    with pytest.raises(PermissionError, match="is not a folder of this user alone"):
        publish(profiler)
    own_folder.rmdir()
    own_folder.symlink_to("/")
    with pytest.raises(PermissionError):
        publish(profiler)


def test_a_failing_write_is_kept_and_tried_again(profiler: CodeProfiler, own_folder: Path) -> None:
    with publish(profiler, every=0.05) as publisher:
        is_in_the_way = False
        while not is_in_the_way:  # the publisher may write between the two
            publisher.path.unlink()
            with contextlib.suppress(FileExistsError):
                publisher.path.mkdir()
                is_in_the_way = True
        assert wait_for(lambda: publisher.error is not None)
        publisher.path.rmdir()
        assert wait_for(lambda: publisher.error is None and publisher.path.is_file())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_leaves_the_parents_file_alone(profiler: CodeProfiler) -> None:
    with publish(profiler) as publisher:
        child = os.fork()
        if child == 0:
            publisher.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert publisher.path.exists()


def test_what_is_no_file_is_not_published_to(profiler: CodeProfiler, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(ValueError, match="path must be that of a regular file"):
            publish(profiler, path=path)
    assert pipe.is_fifo()


def test_wrong_arguments_are_refused(profiler: CodeProfiler) -> None:
    with pytest.raises(ValueError, match=r"every must be a finite number of seconds from 0\.05, not 0"):
        publish(profiler, every=0)
    with pytest.raises(TypeError, match="profiler must be a CodeProfiler, not int"):
        publish(3)  # type: ignore[arg-type]


def test_keys_sort_pause_and_quit_on_a_terminal(profiler: CodeProfiler, own_folder: Path) -> None:
    try:
        controller, terminal = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    with publish(profiler):
        watching = subprocess.Popen(
            [sys.executable, "-c", "from perfopt.cli import main; main()", "top", str(os.getpid()), "--every", "0.1"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
            close_fds=True,
        )
        os.close(terminal)
        shown = b""

        def reads(expected: bytes) -> bool:
            nonlocal shown
            end = time.monotonic() + 60
            while expected not in shown and time.monotonic() < end:
                shown += os.read(controller, 65536)
            return expected in shown

        assert reads(b"sorted by total")
        os.write(controller, b"c")
        assert reads(b"sorted by calls")
        os.write(controller, b" ")
        assert reads(b"paused")
        os.write(controller, b"q")
        assert watching.wait(60) == 0
        os.close(controller)
