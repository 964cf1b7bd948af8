"""`mechlib grade --dask ADDRESS`: students' code runs on the machines of a Dask cluster, everything else stays here.

To a machine of the cluster go a submission's notebook and the inputs of its cases; back come the outputs and what
the answers did, as data. The seed, the submissions' folder, the gradebook and every verdict stay with the grader.
Dask gives a task whose machine has died to another one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import nbformat
from nbformat import NotebookNode

from mechlib.grading.forkserver import ForkServer
from mechlib.grading.limits import Limits
from mechlib.grading.run import Run, observe_submission
from mechlib.grading.sandbox import Sandbox, choose
from mechlib.grading.store import version

RETRIES = 2  # of a submission that a machine could not run; one that dies costs a try of Dask's own


class ClusterLost(Exception):
    """The cluster does not do its work; the message says why. Not the fault of a submission."""


def settings() -> dict[str, str]:
    """What Dask reads from the environment (certificates, say): a worker's own is scrubbed."""
    return {name: value for name, value in os.environ.items() if name.startswith("DASK_") or name == "HOME"}


def slots(address: str) -> int:
    """How many submissions the cluster runs at a time."""
    with connected(address) as client:
        return max(sum(client.nthreads().values()), 1)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A connection to the scheduler.

    Raises:
        ClusterLost: there is none at this address, or it has gone.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ClusterLost("--dask needs Dask: pip install 'mechlib[dask]'.") from None
    try:
        with Client(address, set_as_default=False) as client:
            yield client
    except Exception as error:  # ours or Dask's: what a submission does raises nothing
        raise ClusterLost(
            f"the Dask cluster at {address} does not do its work: {error or type(error).__name__}"
        ) from None


def observe_there(
    address: str,
    notebook: NotebookNode,
    release: NotebookNode,
    requests: Mapping[str, Sequence[bytes]],
    limits: Limits,
    kind: str,
) -> Run:
    """`observe_submission`, on a machine of the cluster."""
    texts = nbformat.writes(notebook), nbformat.writes(release)
    with connected(address) as client:
        task = client.submit(
            observe_here, *texts, requests, limits.as_dict(), kind, version(), pure=False, retries=RETRIES
        )
        text, run = task.result()
    notebook.update(nbformat.reads(text, as_version=4))
    return Run(**run)


# ---- on the cluster's machine

_servers: dict[str, ForkServer] = {}  # by the release: a machine grades many of a chapter
_starting = threading.Lock()


def observe_here(
    notebook: str,
    release: str,
    requests: Mapping[str, Sequence[bytes]],
    limits: Mapping[str, Any],
    kind: str,
    ours: str,
) -> tuple[str, dict[str, Any]]:
    """Run a notebook in a sandbox of this machine; the executed notebook and what was observed come back."""
    if version() != ours:
        raise RuntimeError("this machine of the cluster has another version of mechlib than the grader")
    server = server_for(release)
    executed = nbformat.reads(notebook, as_version=4)
    sandbox = Sandbox(choose(kind, server)[0], server)
    run = observe_submission(executed, requests, Limits(**limits), sandbox)
    return nbformat.writes(executed), vars(run)


def server_for(release: str) -> str:
    """The address of this machine's fork server for a chapter; it ends with this process."""
    from mechlib.grading.grade import fork_server

    with _starting:
        if release not in _servers or _servers[release].process.poll() is not None:
            server = fork_server(nbformat.reads(release, as_version=4))
            if not isinstance(server, ForkServer):
                return ""
            server.__enter__()
            _servers[release] = server
        return _servers[release].address
