"""The student's side: one Jupyter kernel in its sandbox. Started by `sandbox`, forked or as a program of its own."""

from __future__ import annotations

import json
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mechlib.checker import wire
from mechlib.grading import namespaces
from mechlib.grading.forkserver import clean_environment
from mechlib.grading.limits import Limits
from mechlib.grading.quiet import QUIET_KERNEL


def main(arguments: dict[str, Any], fds: list[int]) -> int:
    """Enter the sandbox and run a kernel until it is told to stop.

    arguments: sandbox, the kind; folder, the one that the kernel may write to, as it is called in the sandbox; hidden,
        folders that must not be seen; limits; connection, what Jupyter calls connection info.
    fds: the kernel's end of the conversation with the desk (`wire`).
    """
    limits = Limits(**arguments["limits"])
    (desk,) = fds
    try:
        if arguments["sandbox"] == "namespaces":
            namespaces.enter(limits, arguments["hidden"])
        else:
            namespaces.set_limits(limits)
    except namespaces.NoSandbox as error:
        Connection(desk).send_bytes(wire.NO_KERNEL + str(error).encode())
        return 1
    folder = Path(arguments["folder"])
    home = folder / "home"
    home.mkdir()
    os.chdir(home)
    connection_file = folder / "kernel.json"
    connection_file.write_text(json.dumps(arguments["connection"]), encoding="utf-8")
    os.environ.clear()
    os.environ.update(
        clean_environment(),
        HOME=str(home),
        TMPDIR=str(folder),
        USER="student",
        NBGRADER_EXECUTION="autograde",
        **{wire.VARIABLE: str(desk)},
    )
    from ipykernel.kernelapp import IPKernelApp

    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what is worth seeing goes through Jupyter's sockets
        os.dup2(nowhere, stream)
    quiet = [*QUIET_KERNEL, "--HistoryManager.enabled=False"]
    IPKernelApp.launch_instance(argv=["-f", str(connection_file), *quiet])
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), [int(sys.argv[2])]))
