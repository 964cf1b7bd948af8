"""How much a submission may use. Everything beyond is stopped, and the row says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Args:
        cell: seconds for a cell; it is then interrupted, and the next ones still run.
        notebook: seconds for everything.
        memory: bytes, of all its processes together.
        processes: processes and threads.
        disk: bytes in its own folder, which lies in memory and vanishes with it.
    """

    cell: float = 60
    notebook: float = 600
    memory: int = 4096 * MIB
    processes: int = 200
    disk: int = 512 * MIB

    def as_dict(self) -> dict[str, float]:
        return asdict(self)
