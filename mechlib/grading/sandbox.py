"""Where students' code runs: which kinds of sandbox this machine offers, and how a kernel is started in one.

namespaces   the fork server's child walls itself in (namespaces.py): quickest, Linux only
bubblewrap   the program bwrap does it, where only that is allowed to; each kernel imports everything anew
none         no walls at all: for code that you would run yourself
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechlib.grading.forkserver import Child, clean_environment, fork
from mechlib.grading.limits import Limits
from mechlib.grading.namespaces import INSIDE, SYSTEM, NoSandbox, visible_folders

KINDS = ("namespaces", "bubblewrap", "none")
OPEN = (
    "WITHOUT A SANDBOX students' code can read and change everything that you can: other submissions, the solutions, "
    "the gradebook, your own files. Grade so only what you trust."
)


@dataclass(frozen=True)
class Sandbox:
    """What a worker needs to know to start a kernel.

    server: the fork server's address; "" where there is none, so that each kernel is a fresh process.
    hidden: folders that must not be seen from inside.
    """

    kind: str
    server: str
    hidden: Sequence[str] = ()

    def new_folder(self) -> tempfile.TemporaryDirectory:
        """A folder for passing files; should we be killed, it goes with the fork server's."""
        return tempfile.TemporaryDirectory(prefix="mechlib-", dir=os.path.dirname(self.server) or None)


class Program:
    """A process that was not forked by the server, with what `forkserver.Child` has."""

    def __init__(self, process: subprocess.Popen, pid: int | None = None):
        self.process, self.pid = process, pid or process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Room:
    """A kernel in its sandbox.

    Args:
        process: the root of the kernel's processes; when it ends, so do they all.
        ip: where Jupyter's sockets are, for us: `ip`-1, `ip`-2, ... once we `hold` them.
        desk: our end of the conversation with the kernel's checks.
    """

    def __init__(self, sandbox: Sandbox, connection: dict[str, Any], limits: Limits):
        ours, theirs = socket.socketpair()
        walled = sandbox.kind != "none"
        self._folder = sandbox.new_folder()
        self._held: list[int] = []
        inside = "/tmp" if walled else self._folder.name
        name = f"ipc-{secrets.token_hex(8)}"  # before the room has walls, /tmp is the host's, and anybody's
        arguments = {
            "sandbox": sandbox.kind,
            "folder": inside,
            "hidden": list(sandbox.hidden),
            "limits": limits.as_dict(),
            "connection": {**connection, "transport": "ipc", "ip": f"{inside}/{name}"},
        }
        with theirs:
            self.process: Child | Program
            if sandbox.kind != "bubblewrap" and sandbox.server:
                self.process = fork(sandbox.server, "mechlib.grading.kernel:main", arguments, [theirs.fileno()])
            elif sandbox.kind == "none":
                self.process = start_program("mechlib.grading.kernel", arguments, theirs.fileno())
            else:
                self.process = _start_in_bubblewrap(sandbox, arguments, theirs.fileno(), limits)
        self._inside = f"/proc/{self.process.pid}/root{inside}/{name}" if walled else ""
        self.ip = f"{self._folder.name}/{name}"
        self.desk = ours.detach()

    def hold(self, number: int) -> bool:
        """Take hold of one of the kernel's sockets; False if it is not there yet. To be done before student code runs.

        ZeroMQ dials again whenever a kernel hangs up, and the names in the room belong to the student, who can put
        links to sockets of the host there. So it dials a link of ours, which leads to the very socket that was there
        at first, whatever its name leads to later.
        """
        if self._inside:
            try:
                self._held.append(os.open(f"{self._inside}-{number}", os.O_PATH | os.O_NOFOLLOW))
            except OSError:
                return False
            os.symlink(f"/proc/self/fd/{self._held[-1]}", f"{self.ip}-{number}")
        return True

    def close(self) -> None:
        """End every process of the room; its folder goes with it."""
        self.process.kill()
        while self._held:
            os.close(self._held.pop())
        with suppress(OSError):
            self._folder.cleanup()


QUIET: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
}


def start_program(module: str, arguments: dict[str, Any], *fds: int) -> Program:
    """Run a module of ours as a program, where there is no fork server."""
    command = [sys.executable, "-P", "-m", module, json.dumps(arguments), *map(str, fds)]
    return Program(subprocess.Popen(command, pass_fds=fds, env=clean_environment(), cwd="/", **QUIET))


def _start_in_bubblewrap(sandbox: Sandbox, arguments: dict[str, Any], desk: int, limits: Limits) -> Program:
    """Its process id is that of the first process inside, which bwrap tells us through a pipe."""
    info, theirs = os.pipe()
    with os.fdopen(info, "rb") as answer:
        command = [sys.executable, "-P", "-m", "mechlib.grading.kernel", json.dumps(arguments), str(desk)]
        walls = bubblewrap(limits, sandbox.hidden, theirs)
        process = subprocess.Popen([*walls, *command], pass_fds=[desk, theirs], env=clean_environment(), **QUIET)
        os.close(theirs)
        try:
            return Program(process, json.load(answer)["child-pid"])
        except ValueError:
            process.kill()
            process.wait()
            raise NoSandbox("bwrap could not be started") from None


def bubblewrap(limits: Limits, hidden: Sequence[str], info: int) -> list[str]:
    """The command that walls in the command behind it."""
    walls = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--info-fd", str(info)]
    walls += ["--uid", str(INSIDE), "--gid", str(INSIDE), "--cap-drop", "ALL", "--hostname", "student"]
    walls += ["--perms", "0700", "--size", str(limits.disk), "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]
    for folder in [*visible_folders(), *(f"/etc/{name}" for name in ("ld.so.cache", "localtime", "fonts"))]:
        if os.path.islink(folder) and folder in SYSTEM:
            walls += ["--symlink", os.readlink(folder), folder]
        elif os.path.exists(folder):
            walls += ["--perms", "0755", "--dir", os.path.dirname(folder), "--ro-bind", folder, folder]
    shown = [Path(folder) for folder in visible_folders()]
    for covered in map(Path, hidden):
        if any(covered.is_relative_to(outer) for outer in shown):
            walls += ["--perms", "0755", "--tmpfs", str(covered)]
            for inner in shown:
                if inner.is_relative_to(covered):
                    walls += ["--ro-bind", str(inner), str(inner)]
            walls += ["--remount-ro", str(covered)]
    return [*walls, "--size", str(limits.disk), "--tmpfs", "/dev/shm", "--remount-ro", "/", "--chdir", "/tmp"]


# ---- what the machine offers


def choose(kind: str, server: str) -> tuple[str, str]:
    """The kind of sandbox to use, and a warning ("" if none).

    Raises:
        NoSandbox: it is not to be had here; the message says what to install.
    """
    if kind == "none":
        return kind, OPEN
    wanted = [kind] if kind != "auto" else ["namespaces", "bubblewrap"]
    reasons = []
    for each in wanted:
        reason = _try(each, server)
        if not reason:
            return each, ""
        reasons.append(f"{each}: {reason}")
    raise NoSandbox(f"there is no sandbox here ({'; '.join(reasons)}). {advice()} --sandbox none grades without one.")


def advice() -> str:
    """What to install or to allow."""
    if not sys.platform.startswith("linux"):
        return "Sandboxes need Linux: grade in a virtual machine or a container."
    if not shutil.which("bwrap"):
        return "Install bubblewrap: `sudo apt-get install bubblewrap` (Debian, Ubuntu), `sudo dnf install bubblewrap`."
    return (
        "Allow user namespaces: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` on Ubuntu, "
        "`docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined` in a container."
    )


def _try(kind: str, server: str) -> str:
    """Start a process in such a sandbox; "" if that works, else why not."""
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if kind == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed"
    if kind == "namespaces" and not server:
        return "needs the fork server"
    reading, writing = os.pipe()
    with os.fdopen(reading) as answer:
        if kind == "namespaces":
            process: Child | Program = fork(server, "mechlib.grading.sandbox:trial", {}, [writing])
        else:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            command = [*bubblewrap(Limits(), [], nowhere), sys.executable, "-P", "-c", "import mechlib.grading"]
            run = subprocess.Popen(command, pass_fds=[nowhere], stderr=writing, env=clean_environment())
            os.close(nowhere)
            process = Program(run)
        os.close(writing)
        reason = answer.read().strip()
        return "" if process.wait() == 0 else reason.splitlines()[-1] if reason else "it does not start"


def trial(arguments: dict[str, Any], fds: list[int]) -> int:
    """Enter a room and look at the library from there; why it cannot be done goes to the pipe."""
    from mechlib.grading import namespaces

    try:
        namespaces.enter(Limits())
        with open(namespaces.__file__, "rb"):
            return 0
    except (NoSandbox, OSError) as error:
        os.write(fds[0], str(error).encode())
        return 1
