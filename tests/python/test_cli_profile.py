"""``perfopt profile`` and ``perfopt bottlenecks``: scripts stay what they are, tours show what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfopt.report import document

SCRIPT = """
import sys, perfopt
from helper import number

@perfopt.profile_operation("step")
def step():
    return sum(range(1000))

def undecorated():
    return [x * x for x in range(50_000)]

if __name__ == "__main__":
    for _ in range(number):
        step()
        undecorated()
    print("arguments", sys.argv[1:], __name__)
"""


def perfopt_command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "from perfopt.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=240
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper.py").write_text("number = 5\n")
    path = tmp_path / "code" / "job.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_runs_as_main_with_its_arguments_and_is_reported(script: Path, tmp_path: Path) -> None:
    done = perfopt_command(
        "profile", "--top", 999, "--out", tmp_path / "run.json", script, "-x", "--level", "3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "arguments ['-x', '--level', '3'] __main__" in done.stdout
    assert "step" in done.stdout
    assert "undecorated (job.py:9)" in done.stdout
    report = document.load(tmp_path / "run.json")
    assert report.operation("step").count == 5
    assert report.title == "job.py"
    calls = {call["function"]: call["calls"] for call in report.extra["call_stacks"]}
    assert calls["undecorated"] == 5


def test_without_stacks_only_decorated_functions_are_recorded(script: Path, tmp_path: Path) -> None:
    done = perfopt_command("profile", "--no-stacks", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "undecorated" not in done.stdout
    (saved,) = (tmp_path / "profiles").glob("job-*.json")
    assert "call_stacks" not in document.load(saved).extra


@pytest.mark.parametrize(
    ("ending", "status", "says"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('enough')", 1, "enough"),
        ("sys.exit()", 0, ""),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_the_scripts_ending_is_the_commands_and_the_report_is_saved(
    script: Path, tmp_path: Path, ending: str, status: int, says: str
) -> None:
    script.write_text(SCRIPT + f"    {ending}\n")
    done = perfopt_command("profile", "--out", tmp_path / "run.json", script, cwd=tmp_path)
    assert done.returncode == status
    assert says in done.stderr
    assert "runpy" not in done.stderr
    assert document.load(tmp_path / "run.json").operation("step").count == 5


def test_a_forked_child_leaves_table_and_report_to_its_parent(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(
        "import os, perfopt\nchild = os.fork()\nperfopt.profile_operation('work')(print)()\n"
        "if child == 0: raise SystemExit(3)\nassert os.waitpid(child, 0)[1] == 3 << 8\n"
    )
    done = perfopt_command("profile", "--out", "run.json", "forks.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved") == 1
    assert document.load(tmp_path / "run.json").operation("work").count == 2


@pytest.mark.parametrize("change", ["os.chdir('elsewhere')", "os.chdir('elsewhere'); os.rmdir(os.getcwd())"])
def test_the_report_is_saved_where_the_command_was_given(tmp_path: Path, change: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moves.py").write_text(f"import os\n{change}\n")
    done = perfopt_command("profile", "--out", "run.json", "moves.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert document.load(tmp_path / "run.json").title == "moves.py"


def test_threads_that_outlive_the_script_are_waited_for_and_main_stays_its_own(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import atexit, pickle, threading, time, perfopt\nclass Own: pass\n"
        "def late(): time.sleep(0.2); perfopt.profile_operation('late')(same)()\n"
        "def same(): assert type(pickle.loads(pickle.dumps(Own()))) is Own\n"
        "threading.Thread(target=late).start()\natexit.register(same)\n"
    )
    done = perfopt_command("profile", "--out", "run.json", "job.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert document.load(tmp_path / "run.json").operation("late").count == 1


def test_a_message_that_is_no_utf8_ends_the_script_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("raise SystemExit('caf\\udce9')\n")
    done = perfopt_command("profile", "job.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "caf\\udce9" in done.stderr
    assert "saved" in done.stdout


def test_a_report_that_cannot_be_saved_is_said_and_the_status_stays(script: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = perfopt_command("profile", "--out", tmp_path / "file" / "run.json", script, cwd=tmp_path)
    assert done.returncode == 0
    assert "error: the report could not be saved" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--mode", "basic", "SCRIPT"]])
def test_either_a_script_or_a_mode(script: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = perfopt_command("profile", *[script if word == "SCRIPT" else word for word in arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert "give either a SCRIPT or --mode" in done.stderr


def test_bottlenecks_of_a_script_and_of_a_report(script: Path, tmp_path: Path) -> None:
    done = perfopt_command("bottlenecks", "--json", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    findings = json.loads(
        done.stdout[done.stdout.index("[\n") :] if "[\n" in done.stdout else done.stdout.split("\n", 1)[1]
    )
    assert all({"rule", "evidence", "advice"} <= finding.keys() for finding in findings)
    slow = tmp_path / "slow.py"
    slow.write_text("import perfopt, time\n@perfopt.profile_operation('slow')\ndef slow(): time.sleep(1.05)\nslow()\n")
    perfopt_command("profile", "--no-stacks", "--out", tmp_path / "slow.json", slow, cwd=tmp_path)
    done = perfopt_command("bottlenecks", tmp_path / "slow.json", cwd=tmp_path)
    assert done.returncode == 0
    assert "slow functions: slow [" in done.stdout
    assert "more than 1.00 s" in done.stdout
    assert "advice: " in done.stdout
    (tmp_path / "bad.json").write_text("{}")
    done = perfopt_command("bottlenecks", tmp_path / "bad.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not a perfopt report" in done.stderr


@pytest.mark.spec("S4-42", "S4-43", "S4-44", "S4-45", "S3-40")
@pytest.mark.parametrize("level", ["basic", "comprehensive"])
def test_all_tours_run_and_are_saved(tmp_path: Path, level: str) -> None:
    done = perfopt_command("profile", "--mode", "all", "--level", level, "--save-reports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Code Profiling Quick Start for perfopt"
    assert lines[1] == "=" * 50
    assert lines[2] == "System Information:"
    assert lines[3] == f"  CPU cores: {os.cpu_count()}"
    assert lines[4].startswith("  CUDA available: ")
    titles = [line for line in lines if line.startswith("=== Quick Start: ")]
    assert len(titles) == 7
    assert titles[0] == "=== Quick Start: Basic Profiling ==="
    assert "Total functions profiled: 2" in lines
    assert "Slow functions: 1" in lines
    (slow,) = [line for line in lines if line.startswith("  slow_function: ") and line.endswith("s")][:1]
    assert float(slow.split()[1].rstrip("s")) >= 1.0
    saved = list((tmp_path / "profiles").glob("*.json"))
    assert len(saved) == 6 + 5
    assert all(document.load(path).operations is not None for path in saved)


@pytest.mark.spec("S4-42")
@pytest.mark.parametrize(
    "mode", ["basic", "data_loading", "memory", "gpu", "comprehensive", "bottlenecks", "monitoring"]
)
def test_each_tour_alone_leaves_nothing_behind(tmp_path: Path, mode: str) -> None:
    done = perfopt_command("profile", "--mode", mode, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("=== Quick Start: ") == 1
    assert list(tmp_path.iterdir()) == []
