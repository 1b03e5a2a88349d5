"""CachedDataset below a DataLoader: workers, collation without warnings, one directory for all workers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from perfopt.data import CachedDataset  # noqa: E402


class Images:
    """Counts its reads in a file, so that those of workers count too."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray[Any, Any], int]:
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        return torch.full((3, 4), float(index)), np.full(5, index), index

    def reads(self) -> int:
        return len(self.log.read_text().splitlines())


def epoch(loader: Any) -> None:
    seen = []
    for tensors, arrays, labels in loader:
        assert torch.equal(tensors[:, 0, 0], labels.float())
        assert torch.equal(arrays[:, 0], labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(24))


@pytest.mark.spec("S4-36")
@pytest.mark.parametrize("workers", [0, 2])
def test_in_memory_over_epochs(workers: int, tmp_path: Path) -> None:
    images = Images(tmp_path / "log")
    loader = DataLoader(
        CachedDataset(images), batch_size=4, num_workers=workers, persistent_workers=workers > 0, shuffle=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not writable.*")
        for _ in range(3):
            epoch(loader)
    assert images.reads() <= 24 * max(1, workers)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_a_directory(context: str, tmp_path: Path) -> None:
    images = Images(tmp_path / "log")
    cached = CachedDataset(images, persist=True, cache_dir=tmp_path / "cache", name="images")
    for _ in range(2):
        epoch(DataLoader(cached, batch_size=4, num_workers=2, multiprocessing_context=context))
    assert images.reads() == 24
