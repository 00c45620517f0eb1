"""How much memory a tree of processes takes, without counting shared pages twice (PSS, Linux only)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from demo.guard import descendants


class MemorySampler:
    """Samples the PSS of some process trees in a thread and keeps the peak.

    :param roots: returns the ids of the processes at the top; asked anew at each sample.
    :param interval: seconds between two samples.
    """

    def __init__(self, roots: Callable[[], Iterable[int]], *, interval: float = 0.5) -> None:
        self.peak_bytes = 0
        self._roots = roots
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """End sampling; the peak stays."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self.peak_bytes = max(self.peak_bytes, tree_pss(self._roots()))


def tree_pss(roots: Iterable[int]) -> int:
    """Return the PSS in bytes of these processes and all below them; 0 where ``/proc`` does not tell."""
    return sum(_pss(pid) for pid in descendants(roots))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended in between, or this is not Linux
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
