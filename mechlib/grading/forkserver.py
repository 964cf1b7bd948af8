"""A process that has the heavy imports behind it, and forks a child for every request.

A request is a function of ours and plain arguments, over a Unix socket in a private folder. The connection stays
open as the child's lifeline: whoever asked learns the exit status over it, and when the asker ends, the child is
killed. When the server itself ends, the kernel kills its children (PR_SET_PDEATHSIG). So nothing outlives the grader,
however it ends.

The server never sees a seed or a submission, and its environment is scrubbed: students' kernels inherit its memory.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any

LONGEST_REQUEST = 65536  # bytes
READY = b"ready\n"
MESSAGES = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_STREAM)  # what is sent at once arrives at once, and alone
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TZ", "MECHLIB_SOLUTIONS")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}

libc = ctypes.CDLL(None)


class ServerLost(Exception):
    """The fork server does not answer."""


class Child:
    """A forked process: wait for it, or kill it."""

    def __init__(self, lifeline: socket.socket, pid: int):
        self.lifeline, self.pid = lifeline, pid
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status (negative for a signal), or None if the child still runs after `timeout` seconds."""
        if self._status is None and connection.wait([self.lifeline], timeout):
            try:
                self._status = int(self.lifeline.recv(16) or b"-9")
            except OSError:
                self._status = -9
            self.lifeline.close()
        return self._status

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._status is None:
            self.lifeline.shutdown(socket.SHUT_WR)
            self.wait()


def fork(server: str, target: str, arguments: Mapping[str, Any], fds: Sequence[int] = ()) -> Child:
    """Ask the server at that address to call `target` ("module:function") with (arguments, fds) in a fork of itself.

    What the function returns is the child's exit status.
    """
    lifeline = socket.socket(socket.AF_UNIX, MESSAGES)
    try:
        lifeline.connect(server)
        socket.send_fds(lifeline, [json.dumps({"target": target, "arguments": arguments}).encode()], list(fds))
        return Child(lifeline, int(lifeline.recv(16)))
    except (OSError, ValueError) as error:
        lifeline.close()
        raise ServerLost(f"the fork server is gone ({error})") from None


class ForkServer:
    """Starts the server; use it in a `with` statement.

    modules: what it imports beforehand; one that cannot be imported is left out.
    warm_up: a function of ours ("module:function") and its argument, called once after that.
    """

    def __init__(self, modules: Sequence[str], warm_up: tuple[str, Any] | None = None):
        self.folder = tempfile.TemporaryDirectory(prefix="mechlib-")
        self.address = str(Path(self.folder.name) / "fork")
        self.process = subprocess.Popen(
            # -P: the folder that we stand in is the course's, and holds who knows what
            [sys.executable, "-P", "-m", "mechlib.grading.forkserver", self.address, json.dumps(warm_up), *modules],
            stdin=subprocess.PIPE,  # its end tells the server that we have ended
            stdout=subprocess.PIPE,
            env=clean_environment(),
            start_new_session=True,  # ^C is for the driver alone
        )

    def __enter__(self) -> str:
        assert self.process.stdout
        if self.process.stdout.readline() != READY:
            self.__exit__()
            raise ServerLost("the fork server did not start; its message stands above")
        return self.address

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        with suppress(OSError):  # the server has removed it
            self.folder.cleanup()


def clean_environment() -> dict[str, str]:
    """The environment for students' code: none of the instructor's keys and tokens."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | ENVIRONMENT


# ---- in the server


def serve(address: str) -> None:
    """Fork for whoever asks, until our standard input ends."""
    lifelines: dict[int, socket.socket] = {}  # by the child's pidfd
    children: dict[int, tuple[int, int]] = {}  # by the lifeline's descriptor: pidfd and pid
    statuses: dict[int, int] = {}  # by the process id of a child that has ended
    with socket.socket(socket.AF_UNIX, MESSAGES) as listener, selectors.DefaultSelector() as ready:
        listener.bind(address)
        listener.listen(128)
        ready.register(listener, selectors.EVENT_READ)
        ready.register(0, selectors.EVENT_READ)
        os.write(1, READY)
        while True:
            for key, _ in ready.select():
                if key.fd == 0:
                    return
                if key.fd == listener.fileno():
                    lifeline = listener.accept()[0]
                    pid = _fork_for(lifeline)
                    if not pid:
                        lifeline.close()
                        continue
                    pidfd = os.pidfd_open(pid)
                    lifelines[pidfd], children[lifeline.fileno()] = lifeline, (pidfd, pid)
                    ready.register(pidfd, selectors.EVENT_READ)
                    ready.register(lifeline, selectors.EVENT_READ)
                elif key.fd in lifelines:  # a child has ended
                    lifeline = lifelines.pop(key.fd)
                    _, pid = children.pop(lifeline.fileno())
                    statuses |= _reap()
                    status = statuses.pop(pid)
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    if lifeline in ready.get_map():
                        ready.unregister(lifeline)
                    with lifeline:
                        _say(lifeline, status)
                elif key.fd in children:  # who asked for a child has no more use for it
                    ready.unregister(key.fileobj)
                    signal.pidfd_send_signal(children[key.fd][0], signal.SIGKILL)


def _reap() -> dict[int, int]:
    """Take in every child that has ended, and what children have left behind; exit status by process id."""
    statuses = {}
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    return statuses


def _fork_for(lifeline: socket.socket) -> int:
    """Fork and call what is asked for; the child's process id, or 0 if the request cannot be read."""
    request, fds, _, _ = socket.recv_fds(lifeline, LONGEST_REQUEST, 8)
    try:
        wanted = json.loads(request)
    except ValueError:
        return 0
    server = os.getpid()
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        _say(lifeline, pid)
        return pid
    status = 1
    try:
        die_with_parent(server)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but({1, 2, *fds})
        os.open(os.devnull, os.O_RDWR)  # this is 0 now
        os.dup2(2, 1)  # nothing of a child may reach whoever reads our standard output
        status = _function(wanted["target"])(wanted["arguments"], fds)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status if isinstance(status, int) else 1)


def _function(name: str) -> Callable[..., Any]:
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    with_parent(signal.SIGKILL)
    if os.getppid() not in (parent, 0):  # 0: the parent is in another pid namespace
        os._exit(1)


def with_parent(signal_number: int) -> None:
    """Which signal the kernel sends when the parent ends; 0 for none."""
    libc.prctl(PR_SET_PDEATHSIG, signal_number)


def _close_all_but(kept: set[int]) -> None:
    last = 0
    for fd in sorted(kept):
        os.closerange(last, fd)
        last = fd + 1
    os.closerange(last, 65536)


def _say(lifeline: socket.socket, number: int) -> None:
    with suppress(OSError):  # who asked may be gone
        lifeline.send(str(number).encode())


def main() -> None:
    """Import, and serve."""
    address, warm_up, *modules = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: _leave(address))
    with_parent(signal.SIGTERM)  # while we import, we do not see that our standard input ends
    sys.argv = sys.argv[:1]
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)
    if wanted := json.loads(warm_up):
        _function(wanted[0])(wanted[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # what is imported is never garbage; looking at it would copy its pages into every child
    with_parent(0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # a child that is killed leaves its own children to us
    serve(address)
    _leave(address)


def _leave(address: str) -> None:
    """End, also where nobody is left to tidy up behind us: workers keep their passing files in our folder."""
    shutil.rmtree(os.path.dirname(address), ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
