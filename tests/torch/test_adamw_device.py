"""perfopt.optim.AdamW's device path without a device: CPU tensors that say they are on cuda:0, on the double backend.

What the kernels do on a real device is for tests/gpu; here it is the Python side: state, workspace, stream, counts and
checkpoints.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.optim")  # not "torch", which without PyTorch is this folder
ROOT = Path(__file__).resolve().parent.parent.parent

SETUP = """
import copy, math, torch
from types import SimpleNamespace
from perfopt.optim import AdamW

class Cuda(torch.Tensor):
    __dlpack_c_exchange_api__ = None  # its table would tell the truth
    device = property(lambda self: torch.device("cuda:0"))

def on_fake_device(function):
    def call(*args, device=None, **kwargs):
        made = function(*args, **kwargs)
        return made if device is None or torch.device(device).type == "cpu" else made.as_subclass(Cuda)
    return call

torch.zeros, torch.tensor = on_fake_device(torch.zeros), on_fake_device(torch.tensor)
torch.Tensor.to = on_fake_device(torch.Tensor.to)
def empty(count, dtype, device, make=torch.empty):  # the allocator of a device aligns to 512 bytes
    raw = make(count + 128, dtype=dtype)
    start = -raw.data_ptr() % 512 // 4
    return raw[start:start + count].as_subclass(Cuda)
torch.empty = empty
asked = []
torch.cuda.current_stream = lambda device: asked.append(device) or SimpleNamespace(cuda_stream=0x70)

def make(cls, kind, **options):
    torch.manual_seed(3)
    params = [torch.randn(n) for n in (70000, 3, 512)]
    params = [p.as_subclass(Cuda) if kind == "cuda" else p for p in params]
    groups = [dict(params=params[:2]), dict(params=params[2:], lr=3e-3, weight_decay=0.0)]
    return params, cls(groups, lr=1e-2, **options)

def give_grads(params, seed, nonfinite=False):
    torch.manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape).as_subclass(type(p))
    if nonfinite:
        params[-1].grad[-1] = math.nan

def equal(a, b, opt_a, opt_b):
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p.as_subclass(torch.Tensor), q.as_subclass(torch.Tensor))
        for name in ("step", "exp_avg", "exp_avg_sq"):
            x, y = opt_a.state[p][name], opt_b.state[q][name]
            assert torch.equal(x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor)), name
"""


def run(tmp_path: Path, script: str, backend: str = "good") -> None:
    compiler = os.environ.get("CC", "gcc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C compiler ({compiler[0]})")
    library = tmp_path / "fake.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc'}", f"-DFAKE_{backend}", "-O1", "-ffp-contract=off"]
    source = str(ROOT / "tests" / "c" / "fake_backend.c")
    subprocess.run([*compiler, *flags, "-fPIC", "-shared", source, "-o", str(library), "-lm"], check=True)
    if backend == "good":
        library = Path(os.environ.get("PERFOPT_TEST_BACKEND", library))  # cuda/*.cu on the emulated device
    env = {
        **os.environ,
        "PERFOPT_CUDA": "on",
        "PERFOPT_CUDA_LIB": str(library),
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }
    command = [sys.executable, "-c", SETUP + script + "\nprint('done')"]
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_steps_skips_and_counts(tmp_path: Path):
    run(
        tmp_path,
        """
a, cpu = make(AdamW, "cpu", max_grad_norm=1.0)
b, gpu = make(AdamW, "cuda", max_grad_norm=1.0)
assert gpu.skipped_steps == 0 and gpu.last_grad_norm is None
for step in range(6):
    for params, opt in ((a, cpu), (b, gpu)):
        give_grads(params, step, nonfinite=step in (2, 4))
        if step == 3:
            params[0].grad = None
        versions = [p._version for p in params]
        opt.step()
        assert step in (2, 4) or [p._version for p in params][1:] == [v + 1 for v in versions][1:]
    equal(a, b, cpu, gpu)
    assert gpu.skipped_steps == cpu.skipped_steps == (0, 0, 1, 1, 2, 2)[step]
    if step not in (2, 4):
        assert math.isclose(gpu.last_grad_norm, cpu.last_grad_norm, rel_tol=1e-12)
assert set(asked) == {0} and gpu.state[b[0]]["step"].device.type == "cuda"
gpu.add_param_group({"params": [torch.ones(4).as_subclass(Cuda)]})  # another plan: what was counted stays
gpu.param_groups[2]["params"][0].grad = torch.ones(4).as_subclass(Cuda)
gpu.step()
assert gpu.skipped_steps == 2 and float(gpu.param_groups[2]["params"][0][0]) < 1
""",
    )


def test_a_momentum_buffer_is_fresh_until_a_step_is_taken_whatever_plan_it_is_in(tmp_path: Path):
    run(
        tmp_path,
        """
from perfopt.optim import SGD
for attempts in range(4):
    params = {kind: torch.ones(300).as_subclass(Cuda) if kind == "cuda" else torch.ones(300) for kind in ("cpu", "cuda")}
    options = {kind: SGD([p], lr=0.1, momentum=0.9, dampening=0.5) for kind, p in params.items()}
    late = {kind: p * 2 for kind, p in params.items()}
    for kind, opt in options.items():
        def step(value):
            for group in opt.param_groups:
                for p in group["params"]:
                    p.grad = torch.full((300,), value).as_subclass(type(p))
            opt.step()
        if attempts != 3:
            step(math.nan)  # skipped: on a device the new buffer stays
        if attempts == 1:  # a plan that is never made
            bad, good = torch.ones(3, dtype=torch.float64), torch.ones(3)
            bad, good = (p.as_subclass(type(params[kind])) for p in (bad, good))
            opt.add_param_group({"params": [good, bad]})
            for p in (good, bad):
                p.grad = torch.ones_like(p)
            try:
                opt.step()
                raise SystemExit("no error")
            except (TypeError, ValueError):
                opt.param_groups.pop()
        if attempts == 2:  # what the user puts there is no fresh buffer
            opt.state[params[kind]]["momentum_buffer"] = torch.full((300,), 3.0).as_subclass(type(params[kind]))
        opt.add_param_group({"params": [late[kind]]})
        if attempts == 0:
            step(math.inf)
            opt.param_groups[1]["lr"] = 0.2
        step(1.0)
        opt.add_param_group({"params": [torch.zeros(300).as_subclass(type(params[kind]))]})
        step(2.0)  # and not once it has stepped
    for p, q in (params.values(), late.values()):
        assert torch.equal(p, q.as_subclass(torch.Tensor)), (attempts, p[0], q[0])
    assert options["cpu"].skipped_steps == options["cuda"].skipped_steps == (2, 1, 1, 0)[attempts]
""",
    )


def test_checkpoints_go_both_ways(tmp_path: Path):
    run(
        tmp_path,
        """
a, theirs = make(torch.optim.AdamW, "cpu")
b, ours = make(AdamW, "cuda")
for step in range(2):
    give_grads(a, step), give_grads(b, step)
    theirs.step(), ours.step()
c, resumed = make(AdamW, "cuda")
resumed.load_state_dict(copy.deepcopy(theirs.state_dict()))  # torch shares the step counts otherwise
d, back = make(torch.optim.AdamW, "cpu")
back.load_state_dict(ours.state_dict())
assert float(back.state[d[0]]["step"]) == 2
with torch.no_grad():
    for p, q in zip(c, a, strict=True):
        p.copy_(q)
assert resumed.state[c[0]]["step"].device.type == "cpu"
give_grads(a, 9), give_grads(c, 9)
theirs.step(), resumed.step()
assert resumed.state[c[0]]["step"].device.type == "cuda" and float(resumed.state[c[0]]["step"]) == 3
for p, q in zip(a, c, strict=True):
    torch.testing.assert_close(q.as_subclass(torch.Tensor), p, rtol=1e-6, atol=1e-7)
""",
    )


def test_adopting(tmp_path: Path):
    run(
        tmp_path,
        """
a, theirs = make(torch.optim.AdamW, "cuda", foreach=False)
b, twin = make(AdamW, "cuda")
ours = AdamW.adopt(theirs)
for step in range(3):
    give_grads(a, step), give_grads(b, step)
    ours.step(), twin.step()
equal(a, b, theirs, twin)
""",
    )


def test_without_a_device_nothing_changes_and_the_reason_is_told(tmp_path: Path):
    run(
        tmp_path,
        """
b, ours = make(AdamW, "cuda")
give_grads(b, 1)
before = [p.clone() for p in b]
for attempt in range(2):
    try:
        ours.step()
        raise SystemExit("no error")
    except RuntimeError as error:
        assert str(error) == "no CUDA backend: no driver is installed"
assert not ours.state and all(torch.equal(p, q) for p, q in zip(before, b, strict=True))
a, theirs = make(torch.optim.AdamW, "cuda", foreach=False)
for p in a:
    theirs.state[p] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
try:
    AdamW.adopt(theirs)
    raise SystemExit("no error")
except ValueError as error:
    assert "no driver is installed" in str(error)
assert theirs.state[a[0]]["step"].device.type == "cpu"
""",
        backend="nodriver",
    )


def test_random_rounding_is_counted_on_the_device_so_that_it_can_be_captured(tmp_path: Path):
    run(
        tmp_path,
        """
a, cpu = make(AdamW, "cpu", state_bits=8, seed=5)
b, gpu = make(AdamW, "cuda", state_bits=8, seed=5)
captures = []
torch.cuda.is_current_stream_capturing = lambda: bool(captures)
captures.append(1)
give_grads(b, 0)
before = [p.clone() for p in b]
try:
    gpu.step()
    raise SystemExit("no error")
except RuntimeError as error:
    assert "a step outside the capture first" in str(error)
assert all(torch.equal(p, q) for p, q in zip(before, b, strict=True)) and gpu._rounding_counter is None
captures.clear()
for step in range(6):
    if step == 2:
        captures.append(1)  # from here on as in a graph: only the device's counter tells the steps apart
    for params, opt in ((a, cpu), (b, gpu)):
        give_grads(params, step, nonfinite=step == 3)
        opt.step()
    equal(a, b, cpu, gpu)
counter = gpu._rounding_counter
assert counter.device.type == "cuda" and counter.dtype == torch.int64
assert gpu.state_dict()["perfopt"] == cpu.state_dict()["perfopt"] == {"seed": 5, "rounding_step": 6}
assert gpu.__getstate__()["_rounding_step"] == 6
counter.fill_(2**30 - 1)
give_grads(b, 7)
gpu.step()
assert int(counter) == 0
captures.clear()
move = torch.Tensor.to
torch.Tensor.to = lambda self, *args: move(self, device=args[0]) if isinstance(args[0], torch.device) else move(self, *args)
gpu.load_state_dict(copy.deepcopy(cpu.state_dict()))
assert gpu._rounding_counter is counter and int(counter) == 6  # where a graph reads it
with torch.no_grad():
    for p, q in zip(b, a, strict=True):
        p.copy_(q)
give_grads(a, 8), give_grads(b, 8)
cpu.step(), gpu.step()
equal(a, b, cpu, gpu)
for bad in (torch.zeros(2, dtype=torch.int64).as_subclass(Cuda), torch.zeros(()).as_subclass(Cuda), "7", 1.5):
    try:
        gpu._plan.step(gpu.param_groups, gpu.state, None, True, 0x70, rounding_step=bad)
        raise SystemExit("no error")
    except TypeError as error:
        assert str(error).startswith("rounding_step=") and "accepted: a whole number, or a tensor of one int64" in str(error)
try:
    gpu._plan.step(gpu.param_groups, gpu.state, None, True, 0x70, rounding_step=torch.zeros(1, dtype=torch.int64))
    raise SystemExit("no error")
except ValueError as error:
    assert str(error).startswith("rounding_step[0]") and "accepted: on the CUDA device of params[0]" in str(error)
""",
    )


# Whatever asks a tensor on the device for its value waits for it.
NO_WAITING = """
from perfopt.amp import GradScaler
waiting_is_allowed = True
def guard(name):
    plain = getattr(torch.Tensor, name)
    def call(self, *args):
        assert waiting_is_allowed, name
        return plain(self.as_subclass(torch.Tensor), *args)
    setattr(Cuda, name, call)
for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu"):
    guard(name)
torch.full = on_fake_device(torch.full)
move = torch.Tensor.to
torch.Tensor.to = lambda self, *args, **kwargs: (  # torch's scaler gives the device by position
    move(self, *args[1:], device=args[0], **kwargs) if args and isinstance(args[0], torch.device) else move(self, *args, **kwargs)
)

def train(scaler, optimizer, params, steps, explicit=()):
    global waiting_is_allowed
    scales = []
    scaler.scale(torch.ones(()).as_subclass(type(params[0])))
    for step in steps:
        give_grads(params, step, nonfinite=step in (1, 3, 4))
        waiting_is_allowed = False
        if step in explicit:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        waiting_is_allowed = True
        scales.append(scaler.get_scale())
    return scales
"""


def test_a_scaler_gives_the_host_s_steps_and_never_waits(tmp_path: Path):
    run(
        tmp_path,
        NO_WAITING
        + """
options = dict(init_scale=16.0, growth_interval=2, hysteresis=2, max_scale=24.0)
for explicit in ((), (0, 3, 6)):
    a, cpu = make(AdamW, "cpu", max_grad_norm=1.0)
    b, gpu = make(AdamW, "cuda", max_grad_norm=1.0)
    on_host, on_device = GradScaler("cpu", **options), GradScaler("cpu", **options)
    scales = train(on_host, cpu, a, range(9), explicit)
    assert scales == [16.0, 16.0, 16.0, 16.0, 8.0, 8.0, 16.0, 16.0, 24.0], scales
    assert train(on_device, gpu, b, range(9), explicit) == scales
    equal(a, b, cpu, gpu)
    assert on_device._device_counts is not None and on_host._device_counts is None
    assert on_device.skipped_steps == on_host.skipped_steps == gpu.skipped_steps == cpu.skipped_steps == 3
    assert on_device.state_dict() == on_host.state_dict()
    resumed = GradScaler("cpu", **options)
    resumed.load_state_dict(on_device.state_dict())
    assert copy.deepcopy(on_device).state_dict() == resumed.state_dict() == on_host.state_dict()
""",
    )


def test_torchs_scaler_and_a_found_inf_of_two_are_obeyed(tmp_path: Path):
    run(
        tmp_path,
        NO_WAITING
        + """
a, cpu = make(AdamW, "cpu", max_grad_norm=1.0)
b, gpu = make(AdamW, "cuda", max_grad_norm=1.0)
assert train(torch.amp.GradScaler("cpu"), cpu, a, range(6)) == train(torch.amp.GradScaler("cpu"), gpu, b, range(6))
equal(a, b, cpu, gpu)
before = [p.clone() for p in b]
give_grads(b, 7)
for value in (2.0, torch.tensor(2.0).as_subclass(Cuda), torch.tensor([1.0], dtype=torch.float64).as_subclass(Cuda)):
    gpu.found_inf = value
    gpu.step()
    assert all(torch.equal(p, q) for p, q in zip(before, b, strict=True))
gpu.found_inf = torch.tensor(0.0).as_subclass(Cuda)
gpu.step()
assert float(gpu.found_inf) == 0 and not torch.equal(before[0], b[0])
give_grads(b, 8, nonfinite=True)
gpu.step()
assert float(gpu.found_inf) == 1
""",
    )


def test_the_floor_is_watched_without_waiting(tmp_path: Path):
    run(
        tmp_path,
        NO_WAITING
        + """
class Event:  # the copy arrives two looks after it was made
    def record(self): self.looks = 0
    def query(self): self.looks += 1; return self.looks > 1
torch.cuda.Event = Event
torch.cuda.is_current_stream_capturing = lambda: False
Cuda.is_cuda = property(lambda self: True)
make_zeros = torch.zeros
torch.zeros = lambda *args, pin_memory=False, **kwargs: make_zeros(*args, **kwargs)
b, gpu = make(AdamW, "cuda")
scaler = GradScaler("cpu", init_scale=4.0, min_scale=1.0)
told = []
scaler.scale(torch.ones(()).as_subclass(Cuda))
for step in range(40):
    give_grads(b, 0, nonfinite=True)
    waiting_is_allowed = False
    try:
        scaler.step(gpu)
        scaler.update()
    except FloatingPointError as error:
        assert "min_scale=1.0" in str(error)
        told.append(step)
    waiting_is_allowed = True
assert scaler.get_scale() == 1.0 and scaler.skipped_steps == 40
assert told and told[0] == 17, told  # looked at after 16 updates, there two later
""",
    )


def test_numbers_for_the_device_are_checked(tmp_path: Path):
    run(
        tmp_path,
        """
b, gpu = make(AdamW, "cuda")
give_grads(b, 0)
gpu.step()
for value, text in ((torch.ones(2).as_subclass(Cuda), "found_inf[0]"), (torch.ones(()), "found_inf[0]")):
    try:
        gpu._plan.step(gpu.param_groups, gpu.state, None, True, 0x70, found_inf=value)
        raise SystemExit("no error")
    except ValueError as error:
        assert text in str(error), error
""",
    )


def test_every_optimizer_steps_on_the_device_as_on_the_cpu(tmp_path: Path):
    run(
        tmp_path,
        """
from perfopt import optim
torch.cuda.is_current_stream_capturing = lambda: False
cases = [
    (optim.SGD, dict(momentum=0.9, dampening=0.5)), (optim.Lion, {}), (optim.Adam, dict(amsgrad=True)),
    (optim.Adagrad, {}), (optim.RMSprop, dict(momentum=0.9, centered=True)), (AdamW, dict(state_bits=8)),
    (AdamW, dict(ema=0.9, zero_grads=True)),
]
for cls, options in cases:
    a, cpu = make(cls, "cpu", **options, max_grad_norm=5.0)
    b, gpu = make(cls, "cuda", **options, max_grad_norm=5.0)
    for step in range(4):
        give_grads(a, step, nonfinite=step == 2), give_grads(b, step, nonfinite=step == 2)
        cpu.step(), gpu.step()
    assert gpu.skipped_steps == 1
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p, q.as_subclass(torch.Tensor)), cls
        assert cpu.state[p].keys() == gpu.state[q].keys()
        for name, value in cpu.state[p].items():
            assert torch.equal(value, gpu.state[q][name].as_subclass(torch.Tensor)), (cls, name)
torch.cuda.is_current_stream_capturing = lambda: True
b, gpu = make(optim.SGD, "cuda", momentum=0.9, state_bits=8)
give_grads(b, 0)
try:
    gpu.step()
    raise SystemExit("no error")
except RuntimeError as error:
    assert "a step outside the capture first" in str(error)
assert not gpu.state
""",
    )
