"""Put this process into a room of its own: Linux namespaces, with what the kernel itself offers and nothing else.

`enter` is called in a fresh fork, before any code of a student's runs in it. Afterwards the process sees a file
system that holds Python, the installed packages and mechlib, all read-only, and a small folder of its own in memory; no
other process; no network; and it has no right to change any of it. bubblewrap does the same for a program that it
starts; here it is done to a process that has torch imported already.

    fork server
      outer     in the host's process namespace; waits, and hands on the exit status
        keeper  process 1 of the room; when it ends, the kernel kills everything in it
          (returns from `enter`, and runs the student's notebook)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import select
import shutil
import signal
import site
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mechlib
from mechlib.grading.forkserver import die_with_parent
from mechlib.grading.limits import Limits

HOME = "/tmp/home"  # of the student, in the room
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
ETC = ("ld.so.cache", "localtime", "nsswitch.conf", "fonts", "alternatives")
DEVICES = ("null", "zero", "full", "random", "urandom")
INSIDE = 1000  # the user's and the group's id in the room
OUTSIDE = 1_500_000_000  # where root grades: every room has an id of its own from here on, which owns nothing else

# From the kernel's headers; ctypes gives functions, not constants.
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ROOM = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
ATTR_READ_ONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CAP_LAST = 4, 24, 38, 40

libc = ctypes.CDLL(None, use_errno=True)


class NoSandbox(Exception):
    """The machine does not allow a room; the message says what failed."""


def enter(limits: Limits, hidden: Sequence[str] = ()) -> None:
    """Returns in a grandchild of this process, which is in the room. The process itself only waits for it, and ends.

    hidden: folders that must not be seen, should they lie in something that is (a course under Python's prefix, say).

    Raises:
        NoSandbox: in the room or here, when the machine refuses a step.
    """
    if platform.machine() not in SYS_PIVOT_ROOT:
        raise NoSandbox(f"namespaces are not known for a {platform.machine()} processor")
    os.setsid()
    owner = OUTSIDE + os.getpid() if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        _call("unshare", ROOM)
    else:
        _new_user(ROOM)
    alive, lasting = os.pipe()
    if child := os.fork():
        _wait_and_leave(child, kept=lasting)
    die_with_parent(0)
    os.close(lasting)
    if select.select([alive], [], [], 0)[0]:  # the outer process ended before we could ask to end with it
        os._exit(1)
    _furnish(limits, hidden, owner)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
        libc.prctl(PR_SET_DUMPABLE, 1)  # or the files in /proc that follow are root's
        _new_user(0)
        die_with_parent(0)  # the change of user has cleared it
    with contextlib.suppress(OSError):  # nobody needs a room in the room
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    _give_up_rights()
    if child := os.fork():
        _wait_and_leave(child)
    os.setsid()
    with contextlib.suppress(OSError):  # where the machine runs out of memory all the same, this goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    set_limits(limits)


def set_limits(limits: Limits) -> None:
    """What the kernel enforces at once, for each process; `watch` adds them up."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data that the fork server's imports have made
    for name, value in (
        ("RLIMIT_DATA", pages * resource.getpagesize() + limits.memory),
        ("RLIMIT_NPROC", limits.processes),
        ("RLIMIT_FSIZE", limits.disk),
        ("RLIMIT_NOFILE", 1024),
        ("RLIMIT_CORE", 0),
    ):
        if hasattr(resource, name):
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))


def visible_folders() -> list[str]:
    """What of the machine a student's code has to see: the system's programs, Python, the packages, and mechlib."""
    folders = [*SYSTEM, sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    folders.append(str(Path(mechlib.__file__).parent))  # not the repository around it, which holds solutions/
    return sorted({folder for folder in folders if os.path.isdir(folder)}, key=len)  # the outer before the inner


# ---- the room


def _furnish(limits: Limits, hidden: Iterable[str], owner: int) -> None:
    """Build the file system of the room and make it the root."""
    shown = visible_folders()
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m")
    os.mkdir("/tmp/host")
    _pivot("/tmp", "/tmp/host")
    _own_folder("/tmp", limits.disk, owner)
    for folder in shown:
        _show(folder)
    os.makedirs("/etc")
    for name in ETC:
        if os.path.isdir(f"/host/etc/{name}"):
            _show(f"/etc/{name}")
        elif os.path.isfile(f"/host/etc/{name}"):
            shutil.copyfile(f"/host/etc/{name}", f"/etc/{name}")
    Path("/etc/passwd").write_text(f"student:x:{INSIDE}:{INSIDE}::{HOME}:/bin/sh\n")
    Path("/etc/group").write_text(f"student:x:{INSIDE}:\n")
    _devices(limits, owner)
    os.mkdir("/proc")
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for folder in hidden:
        if os.path.isdir(folder) and any(_is_inside(folder, outer) for outer in shown):
            _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
            for inner in shown:
                if _is_inside(inner, folder):
                    _show(inner)
            _set_attributes(folder, ATTR_READ_ONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    _call("umount2", b"/host", MNT_DETACH)
    os.rmdir("/host")
    _set_attributes("/", ATTR_READ_ONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    os.umask(0o022)


def _is_inside(inner: str, outer: str) -> bool:
    return Path(inner).is_relative_to(outer)


def _show(folder: str) -> None:
    """Show a folder of the host at its own place, read-only with everything in it. A link stays a link."""
    source, target = f"/host{folder}", folder
    if os.path.exists(target):
        return  # inside of something that is shown already
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    os.mkdir(target)
    _mount(source, target, None, MS_BIND | MS_REC)
    _set_attributes(target, ATTR_READ_ONLY | ATTR_NOSUID, recursive=True)


def _devices(limits: Limits, owner: int) -> None:
    os.mkdir("/dev")
    for name in DEVICES:
        Path("/dev", name).touch()
        _mount(f"/host/dev/{name}", f"/dev/{name}", None, MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/dev/{name}")
    _own_folder("/dev/shm", limits.disk, owner)
    os.mkdir("/dev/pts")
    with contextlib.suppress(NoSandbox):  # `!ls` in a cell wants a terminal
        _mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", "/dev/ptmx")


def _own_folder(folder: str, size: int, owner: int) -> None:
    """A folder in memory, which the student may write to."""
    os.mkdir(folder)
    inside = owner if os.geteuid() == 0 else INSIDE
    options = f"mode=700,size={size},nr_inodes={max(size // 4096, 1024)},uid={inside},gid={inside}"
    _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, options)


def _pivot(root: str, old: str) -> None:
    if libc.syscall(SYS_PIVOT_ROOT[platform.machine()], root.encode(), old.encode()):
        _refused("pivot_root")
    os.chdir("/")


# ---- the rights


def _new_user(flags: int) -> None:
    """A user namespace in which we are the user 1000, whatever we are outside."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INSIDE} {user} 1"), ("gid_map", f"{INSIDE} {group} 1")):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError as error:
            raise NoSandbox(f"writing /proc/self/{name} failed: {error.strerror}") from None


def _give_up_rights() -> None:
    """Drop every capability, for good: also a program with the setuid bit gives none back."""
    for capability in range(CAP_LAST + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
    if libc.syscall(SYS_CAPSET[platform.machine()], header, struct.pack("6I", *[0] * 6)):
        _refused("capset")


# ---- waiting


def _wait_and_leave(child: int, kept: int = 65535) -> None:
    """Wait for the child, taking in what it leaves behind, and end as it ended. Of the open files only `kept` stays."""
    os.closerange(0, kept)
    os.closerange(kept + 1, 65536)
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        except ChildProcessError:
            os._exit(1)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                _end_by_signal(-code)
            os._exit(code)


def _end_by_signal(number: int) -> None:
    """End as the child did, where that is possible (process 1 of a room cannot be killed from inside)."""
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    if os.getpid() != 1:
        os.kill(os.getpid(), number)
    os._exit(128 + number)


# ---- system calls


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments):
        _refused(name)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    if libc.mount(
        source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    ):
        _refused(f"mounting {target}")


def _set_attributes(target: str, attributes: int, recursive: bool) -> None:
    request = struct.pack("4Q", attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    if libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), flags, request, len(request)):
        _refused(f"making {target} read-only")


def _refused(what: str) -> None:
    raise NoSandbox(f"{what} failed: {os.strerror(ctypes.get_errno())}")
