"""Helpers of the profiling guide, with torch: pool of tensors, batches on the device."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from perfopt.profiling import MemoryPool, gpu_batch_processing, gpu_memory_efficient  # noqa: E402


@pytest.mark.spec("S4-35")
def test_a_pool_has_ten_tensors_and_hands_out_zeros() -> None:
    pool = MemoryPool((2, 3))
    assert len(pool.pool) == len(pool.available) == 10
    tensor = pool.get()
    assert tensor.shape == (2, 3)
    tensor.fill_(7)
    pool.return_tensor(tensor)
    assert len(pool.available) == 10
    assert all(not waiting.any() for waiting in pool.available)


@pytest.mark.spec("S4-35")
def test_a_pool_never_grows_and_takes_nothing_twice() -> None:
    pool = MemoryPool(4, count=2)
    out = [pool.get() for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in out}) == 5
    for tensor in out:
        pool.return_tensor(tensor)
    assert len(pool.available) == 2
    with pytest.raises(ValueError, match="returned twice"):
        pool.return_tensor(pool.available[0])
    with pytest.raises(ValueError, match="returned twice"):
        pool.return_tensor(pool.available[0].view(4))


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(4, dtype=torch.float64), torch.zeros(2, 2)])
def test_a_pool_refuses_other_tensors(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"tensor must be of shape \(4,\), torch.float32 on cpu, not"):
        MemoryPool(4).return_tensor(wrong)
    with pytest.raises(ValueError, match="count must be an int from 1, not 0"):
        MemoryPool(4, count=0)


def test_threads_never_share_a_tensor() -> None:
    pool = MemoryPool(64, count=3)
    mixed = []

    def use(number: int) -> None:
        for _ in range(300):
            tensor = pool.get()
            if tensor.any():
                mixed.append("not zeros")
            tensor.fill_(number)
            if not bool((tensor == number).all()):
                mixed.append("shared")
            pool.return_tensor(tensor)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed


@pytest.mark.spec("S4-37")
@pytest.mark.parametrize("samples", [0, 1, 32, 33, 70])
def test_batches_give_one_result_a_sample_in_order(samples: int) -> None:
    sizes = []

    def model(batch: object) -> object:
        sizes.append(len(batch))  # type: ignore[arg-type]
        return batch * 2  # type: ignore[operator]

    data = [torch.full((3,), float(number)) for number in range(samples)]
    results = gpu_batch_processing(data, model=model, device="cpu")
    assert [result.tolist() for result in results] == [[2.0 * number] * 3 for number in range(samples)]
    assert sizes == [32] * (samples // 32) + ([samples % 32] if samples % 32 else [])


def test_wrong_batches_are_refused() -> None:
    data = [torch.zeros(2)] * 3
    with pytest.raises(ValueError, match="batch_size must be an int from 1, not 0"):
        gpu_batch_processing(data, 0, model=lambda batch: batch)
    with pytest.raises(ValueError, match="3 samples, 1 results"):
        gpu_batch_processing(data, model=lambda batch: batch[:1], device="cpu")


@pytest.mark.spec("S4-38")
def test_small_batches_run_under_autocast_with_checkpointing() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)
            self.checkpointing = False

        def gradient_checkpointing_enable(self) -> None:
            self.checkpointing = True

        def forward(self, x: object) -> object:
            assert torch.is_autocast_enabled("cpu")
            return self.layer(x)

    model = Model()
    results = list(gpu_memory_efficient(model, [torch.zeros(2, 4), torch.ones(1, 4)], device="cpu"))
    assert model.checkpointing
    assert [tuple(result.shape) for result in results] == [(2, 4), (1, 4)]
    assert results[0].dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
