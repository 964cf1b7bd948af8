"""The fork server starts children, ends them with whoever asked, and hands nothing of ours to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mechlib.grading.forkserver import ForkServer, ServerLost, fork

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server is for Linux")
HERE = "test_forkserver"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setenv("SECRET_TOKEN", "of-the-instructor")
        with ForkServer([], (f"{HERE}:remember", "warm")) as address:
            yield address


REMEMBERED = []


def remember(word):
    REMEMBERED.append(word)


def end(arguments, fds):
    if "signal" in arguments:
        os.kill(os.getpid(), arguments["signal"])
    return arguments["status"]


def tell(arguments, fds):
    open_files = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    threads = len(os.listdir("/proc/self/task"))
    secret = b"of-the-instructor" in Path("/proc/self/environ").read_bytes()
    os.write(fds[0], repr((dict(os.environ), secret, open_files, threads, REMEMBERED)).encode())
    return 0


def sleep(arguments, fds):
    if arguments["and_a_child"] and os.fork() == 0:
        time.sleep(60)
    if fds:
        os.write(fds[0], b"x")
    time.sleep(60)
    return 0


def gone(pid):
    end = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_exit_status(server):
    assert fork(server, f"{HERE}:end", {"status": 7}).wait() == 7
    assert fork(server, f"{HERE}:end", {"signal": signal.SIGSEGV}).wait() == -signal.SIGSEGV
    assert fork(server, f"{HERE}:no_such_function", {}).wait() == 1


def test_wait_for_a_while_and_kill(server):
    child = fork(server, f"{HERE}:sleep", {"and_a_child": False})
    assert child.wait(0) is None and child.wait(0.05) is None
    child.kill()
    assert child.wait() == -signal.SIGKILL and gone(child.pid)


def test_a_child_ends_with_who_asked_for_it(server):
    child = fork(server, f"{HERE}:sleep", {"and_a_child": False})
    child.lifeline.close()  # as the system does for a process that has been killed
    assert gone(child.pid)


def test_children_know_nothing_of_ours(server):
    reading, writing = os.pipe()
    child = fork(server, f"{HERE}:tell", {}, [writing])
    os.close(writing)
    with os.fdopen(reading) as answer:
        environment, secret, open_files, threads, remembered = eval(answer.read())
    assert child.wait() == 0
    assert "SECRET_TOKEN" not in environment and not secret
    assert len(open_files) <= 5  # the standard three, the pipe, and the folder that was listed
    assert threads == 1 and remembered == ["warm"]


def test_everything_ends_with_the_server():
    program = (
        "import sys; from mechlib.grading.forkserver import *\n"
        "with ForkServer([]) as address:\n"
        "    print(fork(address, 'test_forkserver:sleep', {'and_a_child': False}).pid, flush=True)\n"
        "    sys.stdin.read()"
    )
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    driver = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid = int(driver.stdout.readline())
    (server,) = psutil.Process(driver.pid).children()
    folder = os.path.dirname(next(word for word in server.cmdline() if word.endswith("/fork")))
    assert os.path.isdir(folder)
    driver.kill()
    driver.wait()
    assert gone(pid) and gone(server.pid)
    assert not os.path.exists(folder)


def test_a_server_that_is_gone_is_said(tmp_path):
    with pytest.raises(ServerLost, match="the fork server is gone"):
        fork(str(tmp_path / "nothing"), f"{HERE}:end", {})
