"""The loader as Python sees it, and the device path of OptimizerPlan on a double backend whose device is host memory.

The loader decides once in a process, so every case runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHOW = "import json; from perfopt import _core; print(json.dumps(_core.backend_info()))"


def run(script: str, **environment: str | None) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PERFOPT_CUDA", "PERFOPT_CUDA_LIB")}
    env.update({key: value for key, value in environment.items() if value is not None})
    env["PYTHONPATH"] = os.pathsep.join(sys.path[1:])
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def info(**environment: str | None) -> dict[str, object]:
    shown = json.loads(run(SHOW, **environment))
    assert set(shown) == {"available", "name", "reason", "path", "devices"}
    assert shown["available"] is bool(shown["devices"])
    assert shown["available"] is (shown["reason"] == "")
    return shown


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory):
    """Path of a double backend of a kind, compiled from tests/c/fake_backend.c."""
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler ({compiler[0]})")
    folder = tmp_path_factory.mktemp("fake")

    def build(kind: str) -> str:
        path = folder / f"fake_{kind}.so"
        if not path.exists():
            source = ROOT / "tests" / "c" / "fake_backend.c"
            flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", f"-DFAKE_{kind}", "-O1", "-ffp-contract=off"]
            subprocess.run([*compiler, *flags, "-fPIC", "-shared", str(source), "-o", str(path), "-lm"], check=True)
        return str(path)

    return build


def test_it_is_looked_for_beside_the_package_and_never_in_the_current_folder():
    shown = info()
    folder = Path(run("from perfopt import _core; print(_core.__file__)").strip()).parent
    assert shown["path"] == str(folder / "_backends" / "libperfopt_cuda.so")


def test_switched_off():
    assert info(PERFOPT_CUDA="off") == {
        "available": False,
        "name": "",
        "reason": "switched off by PERFOPT_CUDA=off",
        "path": "",
        "devices": [],
    }


def test_an_unknown_switch_is_named():
    shown = info(PERFOPT_CUDA="yes")
    assert shown["reason"] == "PERFOPT_CUDA=yes is unknown; accepted: auto, on, off"


def test_a_missing_file(tmp_path: Path):
    missing = str(tmp_path / "none.so")
    shown = info(PERFOPT_CUDA_LIB=missing)
    assert shown["reason"] == f"no backend was built: {missing} does not exist"
    assert shown["path"] == missing


def test_a_relative_path_is_refused():
    assert info(PERFOPT_CUDA_LIB="here.so")["reason"] == "PERFOPT_CUDA_LIB=here.so is not an absolute path"


def test_a_text_file_is_no_library(tmp_path: Path):
    text = tmp_path / "backend.so"
    text.write_text("not a library")
    shown = info(PERFOPT_CUDA_LIB=str(text))
    assert str(shown["reason"]).startswith(f"cannot open {text}: ")
    assert shown["name"] == ""


def test_a_path_that_is_no_unicode_is_still_shown(tmp_path: Path):
    missing = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.so")
    assert info(PERFOPT_CUDA_LIB=missing)["path"] == missing


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("version", "backend ABI version 43, this perfopt needs version 2"),
        ("size", "a backend table of"),
        ("nosymbol", "has no symbol perfopt_backend_v1"),
        ("nodriver", "no driver is installed"),
        ("nodevice", "no device"),
    ],
)
def test_what_cannot_be_used_says_why(fake, kind: str, reason: str):
    assert reason in str(info(PERFOPT_CUDA_LIB=fake(kind))["reason"])


def test_a_good_one_shows_its_devices(fake):
    shown = info(PERFOPT_CUDA_LIB=fake("good"), PERFOPT_CUDA="on")
    assert shown["available"] is True
    assert shown["name"] == "fake"
    assert shown["devices"] == [
        {
            "index": 0,
            "name": "host memory",
            "compute_capability": "1.2",
            "multiprocessors": 3,
            "total_bytes": 1 << 20,
        }
    ]


# NumPy memory that says it is a CUDA tensor, as OptimizerPlan reads tensors that have no DLPack exchange table.
FAKE_TENSORS = """
import gc, math
import numpy as np
from perfopt._train import OptimizerPlan

class Tensor:
    dtype = "torch.float32"
    def __init__(self, values, device="cuda:0"):
        self.values, self.device, self.grad = np.array(values, np.float32), device, None
    shape = property(lambda self: self.values.shape)
    def stride(self): return tuple(s // 4 for s in self.values.strides)
    def data_ptr(self): return self.values.ctypes.data

def make(device, counts, groups=2):
    random = np.random.default_rng(5)
    params = [Tensor(random.standard_normal(n), device) for n in counts]
    state = {}
    for i, param in enumerate(params):
        param.grad = Tensor(random.standard_normal(len(param.values)), device)
        state[param] = {"step": Tensor(float(i % 3), device),
                        "exp_avg": Tensor(random.standard_normal(len(param.values)), device),
                        "exp_avg_sq": Tensor(random.random(len(param.values)), device)}
    options = dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    options.update(amsgrad=False, capturable=False, maximize=False)
    param_groups = [dict(options, params=params[0::2]), dict(options, params=params[1::2], lr=3e-3, weight_decay=0.0)]
    return params, param_groups, state

def workspace(plan, device="cuda:0", extra=0):
    bytes_ = plan.workspace_bytes + extra
    raw = np.zeros(bytes_ // 4 + 64, np.float32)
    start = (-raw.ctypes.data % 256) // 4
    tensor = Tensor(0.0, device)
    tensor.values = raw[start:start + bytes_ // 4]
    return tensor

def everything(params, state):
    return b"".join(a.values.tobytes() for p in params for a in (p, *state[p].values()))

def raises(kind, text, call, *args):
    try:
        call(*args)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError("nothing was raised")
"""

COUNTS = "[70000, 0, 1, 3, 65536, 512, 131073]"


def test_device_steps_equal_the_cpus(fake):
    script = f"""
cpu_params, cpu_groups, cpu_state = make("cpu", {COUNTS})
params, groups, state = make("cuda:0", {COUNTS})
cpu, plan = OptimizerPlan("adamw", cpu_groups, cpu_state), OptimizerPlan("adamw", groups, state)
assert (cpu.device, cpu.workspace_bytes) == (-1, 0) and plan.device == 0 and plan.workspace_bytes > 0
raises(RuntimeError, "no workspace", plan.step, groups, state, None, True, 0)
plan.start(workspace(plan), 0)
for step in range(5):
    if step == 2:
        cpu_params[0].grad = params[0].grad = None
    if step == 3:
        cpu_params[0].grad, params[0].grad = Tensor(np.ones(70000), "cpu"), Tensor(np.ones(70000))
        groups[0]["capturable"] = True
        groups[1]["lr"], cpu_groups[1]["lr"] = Tensor(0.5), 0.5  # a rate on the device
    if step == 4:
        cpu_params[6].grad.values[131072] = params[6].grad.values[131072] = math.inf
    norm, skipped, factor = cpu.step(cpu_groups, cpu_state, 1.0, True)
    assert all(math.isnan(x) for x in plan.step(groups, state, 1.0, True, 0)[::2])
    assert everything(cpu_params, cpu_state) == everything(params, state)
    device_norm, device_factor, nonfinite, taken, device_skipped = plan.read(0)
    assert (taken, device_skipped, nonfinite) == ((step + 1, 0, False) if step < 4 else (4, 1, True))
    assert skipped == nonfinite and (skipped or math.isclose(norm, device_norm) and math.isclose(factor, device_factor))
assert plan.written()[0] is params[0]
print("done")
"""
    assert run(FAKE_TENSORS + script, PERFOPT_CUDA_LIB=fake("good")).strip() == "done"


def test_device_plans_refuse_what_they_cannot_do(fake):
    script = f"""
params, groups, state = make("cuda:0", {COUNTS})
plan = OptimizerPlan("adamw", groups, state)
raises(ValueError, "too small", plan.start, workspace(plan, extra=-4), 0)
raises(ValueError, "on the CUDA device of params[0]", plan.start, workspace(plan, "cpu"), 0)
raises(ValueError, "on the CUDA device of params[0]", plan.start, workspace(plan, "cuda:1"), 0)
plan.start(workspace(plan), 0)
raises(RuntimeError, "started already", plan.start, workspace(plan), 0)
before = everything(params, state)
params[4].grad.device = "cpu"
raises(ValueError, "grads[2]", plan.step, groups, state, None, True, 0)
params[4].grad.device = "xpu:0"
raises(ValueError, "accepted: float32, bfloat16 or float16 on the CPU or CUDA", plan.step, groups, state, None, True, 0)
params[4].grad.device = "cuda:0"
groups[0]["amsgrad"] = True
assert plan.step(groups, state, None, True, 0) is None  # other state is wanted now: a new plan is to find it
raises(ValueError, "max_exp_avg_sq", OptimizerPlan, "adamw", groups, state)
groups[0]["amsgrad"] = False
raises(TypeError, "integer", plan.step, groups, state, None, True, "stream")
assert everything(params, state) == before
state[params[2]]["exp_avg"].device = "cpu"
raises(ValueError, "exp_avgs[1]", OptimizerPlan, "adamw", groups, state)
cpu_groups = make("cpu", [3, 4])[1:]
raises(RuntimeError, "CPU", OptimizerPlan("adamw", *cpu_groups).start, workspace(plan), 0)
raises(RuntimeError, "CPU", OptimizerPlan("adamw", *cpu_groups).read, 0)
print("done")
"""
    assert run(FAKE_TENSORS + script, PERFOPT_CUDA_LIB=fake("good")).strip() == "done"


def test_device_plans_keep_and_release_their_tensors(fake):
    script = """
import sys, weakref
params, groups, state = make("cuda:0", [5, 6])
held = workspace(OptimizerPlan("adamw", groups, state))
watched = [held, params[0], params[0].grad, groups, state]
count = lambda: [sys.getrefcount(watched[i]) for i in range(5)]
counts = count()
for _ in range(2000):
    plan = OptimizerPlan("adamw", groups, state)
    plan.start(held, 0)
    plan.step(groups, state, 1.0, True, 0)
    plan.read(0)
    try:
        plan.start(held, 0)
    except RuntimeError:
        pass
assert count()[0] == counts[0] + 1
del plan
gc.collect()
assert count() == counts
gone = weakref.ref(held)
held.cycle = OptimizerPlan("adamw", groups, state)
held.cycle.start(held, 0)
watched.clear()
del held
assert gone() is not None
gc.collect()
assert gone() is None
print("done")
"""
    assert run(FAKE_TENSORS + script, PERFOPT_CUDA_LIB=fake("good")).strip() == "done"


def test_without_a_backend_the_reason_is_raised():
    script = """
params, groups, state = make("cuda:0", [5])
raises(RuntimeError, "no CUDA backend: switched off by PERFOPT_CUDA=off", OptimizerPlan, "adamw", groups, state)
params, groups, state = make("cpu", [5])
assert OptimizerPlan("adamw", groups, state).step(groups, state, None, True)[1] is False
print("done")
"""
    assert run(FAKE_TENSORS + script, PERFOPT_CUDA="off").strip() == "done"
