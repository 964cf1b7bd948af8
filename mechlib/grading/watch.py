"""Look at a running sandbox a few times a second, and end it when it uses more than it may."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil

from mechlib.grading.limits import MIB, Limits

INTERVAL = 0.25  # seconds


class Watch:
    """Watches the process `pid` and all its descendants, from a thread; `reason` says why they were ended.

    The kernel's own limits hold for each process alone; here they are added up.
    """

    def __init__(self, pid: int, limits: Limits):
        self.limits, self.reason = limits, ""
        self._stop = threading.Event()
        self._root = psutil.Process(pid)
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        end = time.monotonic() + self.limits.notebook
        while not self._stop.wait(INTERVAL):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            if time.monotonic() > end:
                self.reason = f"the notebook took longer than {self.limits.notebook:g} s"
            elif sum(map(_threads, processes)) > 1.2 * self.limits.processes:
                self.reason = f"it started more than {self.limits.processes} processes"
            elif memory(processes, self.limits.memory) > self.limits.memory:
                self.reason = f"it used more than {self.limits.memory / MIB:.0f} MiB of memory"
            if self.reason:
                end_all(processes)
                return


def end_all(processes: list[psutil.Process]) -> None:
    """Kill these processes, the first one first: in a sandbox, its end is the end of the others."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def memory(processes: list[psutil.Process], enough: int) -> int:
    """The bytes that the processes use together. Exact only where they are more than `enough`, which is slow to say."""
    most = sum(map(_resident, processes))  # what several processes share (the imports) is counted again for each
    return most if most <= enough else sum(map(_proportional, processes))


def _threads(process: psutil.Process) -> int:
    try:
        return process.num_threads()
    except psutil.Error:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss  # slow: the kernel looks at every page
    except (psutil.Error, AttributeError):
        return _resident(process)
