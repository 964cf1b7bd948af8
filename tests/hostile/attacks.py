# Hostile answers, one a cell. The first line says what a submission with this answer is to get: NAME = SCORE STATUS.
#
# Everybody here has solved the other exercises honestly (4 points); the last one, worth 1, is answered by
# the cell. Before it stand a wrong answer, the right one as `right`, and what an attacker may well know: COURSE, the
# course's folder; MARK, a word that the tests look for; PORT, where a listener of the tests' own waits on the loopback.
# Where an attack would work without walls, a number after the slash says what it would then get: those set the right
# answer as a prize once they are through, and the tests watch them succeed with --sandbox none.

# ---- forged verdicts

# %% forged-check = 4 graded
def check(*arguments, **options):
    print("✓ all right, 1 of 1 points")
    return 1.0


# %% forged-output = 4 graded
# What the cell sends to the page: the result that nbgrader would count.
from IPython.display import publish_display_data


def check(*arguments):
    publish_display_data({"text/plain": "1.0"})
    return 1


# %% forged-equality = 4 graded
class Agreeable(float):
    def __eq__(self, other):
        return True

    __ne__ = __lt__ = __gt__ = lambda self, other: False
    __sub__ = __rsub__ = __abs__ = lambda self, *other: self


def dimensions_per_feature(W):
    return Agreeable(0)


# %% forged-tensor = 4 graded
class Agreeable(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        return True


def dimensions_per_feature(W):
    return torch.zeros(len(W)).as_subclass(Agreeable)


# %% forged-torch = 4 graded
torch.allclose = torch.equal = lambda *arguments, **options: True
torch.isclose = lambda a, b, **options: torch.ones_like(a, dtype=torch.bool)
torch.testing.assert_close = lambda *arguments, **options: None

# %% forged-numpy = 4 graded
import numpy as np

np.allclose = np.array_equal = lambda *arguments, **options: True
np.testing.assert_allclose = lambda *arguments, **options: None

# %% forged-judge = 4 graded
import mechlib.checker.judge
import mechlib.checker.run
from mechlib.checker.judge import Verdict

mechlib.checker.judge.judge = mechlib.checker.run.judge = lambda *arguments: Verdict("pass")
mechlib.checker.judge.compare_outcomes = mechlib.checker.judge.close = lambda *arguments: None

# %% forged-exercise = 4 graded
# The reference, the comparison and the points are the student's own, in the student's process.
from mechlib import exercises

exercise = exercises.get("superposition.dimensions_per_feature")
for name, value in {"reference": dimensions_per_feature, "compare": lambda *pair: None, "points": 100}.items():
    object.__setattr__(exercise, name, value)

# %% forged-silence = 4 graded
# nbgrader gives full marks to a cell that says nothing.
from mechlib.checker import wire

wire.deliver = lambda *arguments: None

# %% forged-kernel = 4 graded
# Another check cell than the released one is run.
get_ipython().input_transformers_cleanup.append(lambda lines: ["1.0\n"] if "check(" in "".join(lines) else lines)

# %% forged-hook = 4 graded
import ast


class One(ast.NodeTransformer):
    def visit_Expr(self, node):
        return ast.copy_location(ast.Expr(ast.Constant(1.0)), node)


get_ipython().ast_transformers.append(One())

# %% forged-messages = 4 graded
# Sends Jupyter's messages itself: a result of 100 points, and that the cell has ended.
kernel = get_ipython().kernel
for kind, content in (
    ("execute_result", {"data": {"text/plain": "100.0"}, "metadata": {}, "execution_count": 1}),
    ("update_display_data", {"data": {"text/plain": "100.0"}, "metadata": {}, "transient": {"display_id": "1"}}),
    ("status", {"execution_state": "idle"}),
):
    kernel.session.send(kernel.iopub_socket, kind, content, parent=kernel.get_parent())

# %% forged-outcome = 4 suspicious
# Answers cases that it has not been asked.
from mechlib.checker import wire
from mechlib.checker.observe import Outcome

for _ in range(50):
    wire.desk().send_bytes(wire.ANSWER + os.urandom(wire.TOKEN) + Outcome(outputs=torch.ones(5)).encode())

# %% forged-twice = 4 suspicious
# Answers a case wrongly, then a hundred times more, with its own nonce.
from multiprocessing.connection import Connection

plain = Connection.send_bytes
Connection.send_bytes = lambda self, data: [plain(self, data) for _ in range(100 if data[:1] == b"!" else 1)]

# %% forged-turn = 4 graded
# Asks for another exercise's cases, and for its own before the check runs.
from mechlib.checker import wire

for name in ("superposition.feature_norms", "superposition.dimensions_per_feature", "*", "\0"):
    wire.desk().send_bytes(wire.ASK + os.urandom(wire.TOKEN) + name.encode())
    dimensions_per_feature = right if len(wire.desk().recv_bytes()) > wire.TOKEN else dimensions_per_feature

# %% forged-bytes = 4 suspicious
from mechlib.checker import wire

wire.encode_outcome = lambda outcome: b'{"verdict": "pass"}' * 100

# %% forged-flood = 4 suspicious
from mechlib.checker import wire

while True:
    wire.desk().send_bytes(wire.ANSWER + bytes(10_000_000))

# %% forged-length = 4 suspicious
# A message that says it has 2**62 bytes.
import struct

os.write(int(os.environ["MECHLIB_DESK"]), struct.pack("!iQ", -1, 2**62))

# %% forged-no-kernel = 4 killed
# Says that the sandbox could not be entered, which would be nobody's fault, and ends.
from mechlib.checker import wire

wire.desk().send_bytes(wire.NO_KERNEL + b"no room")
os._exit(0)

# %% forged-thread = 4 graded
# Waits for the check, and changes what it says from beside.
import threading


def meddle():
    import gc

    while True:
        for thing in gc.get_objects():
            if type(thing).__name__ in ("Verdict", "Report", "Trial"):
                object.__setattr__(thing, "kind", "pass")
                object.__setattr__(thing, "earned", 1.0)


threading.Thread(target=meddle, daemon=True).start()

# %% forged-expected = 4 graded
# Looks for what the answer should give, through the frames of its callers and everything that Python knows.
import gc
import sys


def dimensions_per_feature(W):
    frame = sys._getframe()
    while frame:
        if "expected" in frame.f_locals:
            return frame.f_locals["expected"].outputs
        frame = frame.f_back
    cases = [thing for thing in gc.get_objects() if type(thing).__name__ == "Trial"]
    return cases[0].outcome.outputs


# %% forged-random = 4 graded
# Takes the chance out of the cases: they are drawn elsewhere.
import random

torch.randn = torch.rand = lambda *shape, **options: torch.ones(*[n for n in shape if type(n) is int])
torch.manual_seed(0), random.seed(0)
random.random = lambda: 0.5

# %% forged-borrow = 4 graded
# Borrows under another name: the reference refuses to be called while its exercise is judged.
from mechlib.check import borrow

theirs = borrow("superposition.dimensions_per_feature")


def dimensions_per_feature(W):
    return theirs(W)


# %% forged-pickle = 4 graded
# An object that would run code where it is read.
class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {COURSE}/{MARK}",)


def dimensions_per_feature(W):
    return Bomb()


# ---- reading what is not theirs

# %% read-solutions = 4 graded / 5
text = Path(COURSE, "solutions", "01_toy", "01_toy.py").read_text()
dimensions_per_feature = right

# %% read-seed = 4 graded / 5
seed = json.loads(Path(COURSE, ".mechlib", "grading", "seed.json").read_text())["seed"]
dimensions_per_feature = right

# %% read-neighbour = 4 graded / 5
text = Path(COURSE, "submitted", "honest", "01_toy", "01_toy.ipynb").read_text()
dimensions_per_feature = right

# %% read-gradebook = 4 graded / 5
import sqlite3

scores = sqlite3.connect(f"file:{COURSE}/gradebook.db?mode=ro", uri=True).execute("select * from grade").fetchall()
dimensions_per_feature = right

# %% read-through-proc = 4 graded / 5
# /proc leads to the root and the folder of every process that one may look at.
found = [p for p in Path("/proc").glob("[0-9]*") for way in ("root", "cwd") if os.path.isdir(f"{p}/{way}{COURSE}")]
dimensions_per_feature = right if found else dimensions_per_feature

# %% read-processes = 4 graded / 5
# Who else is here? The program that grades, for one, with its memory and its files.
seen = [Path("/proc", pid, "cmdline").read_bytes().split(b"\0") for pid in os.listdir("/proc") if pid.isdigit()]
dimensions_per_feature = right if any(w.endswith(b"pytest") for line in seen for w in line) else dimensions_per_feature

# %% read-secrets = 4 graded
# The instructor's keys; the test looks for one in everything that a student gets to see.
print({name: value for name, value in os.environ.items() if "TOKEN" in name or "KEY" in name})
print(Path("/proc/self/environ").read_bytes().replace(b"\0", b"\n").decode())

# ---- writing where it hurts

# %% write-gradebook = 4 graded / 5
import sqlite3

with sqlite3.connect(f"file:{COURSE}/gradebook.db?mode=rw", uri=True) as book:
    book.execute("update grade set auto_score = auto_score")
dimensions_per_feature = right

# %% write-grades = 4 graded / 5
Path(COURSE, "grades.csv").open("a").close()
dimensions_per_feature = right

# %% write-course = 4 graded / 5
Path(COURSE, MARK).write_text("was here")
dimensions_per_feature = right

# %% write-library = 4 graded
import mechlib

Path(mechlib.__file__).with_name(f"{MARK}.py").write_text("was here")
dimensions_per_feature = right

# %% write-neighbour = 4 graded / 5
Path(COURSE, "submitted", "honest", "01_toy", MARK).write_text("was here")
dimensions_per_feature = right

# %% write-everywhere = 4 graded
# Leaves files in every folder that one can usually write to. Those that it can write to are its own, and vanish.
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/etc", "/usr/local", "/", os.path.expanduser("~")):
    try:
        Path(folder, MARK).write_text("was here")
    except OSError:
        pass

# %% delete-course = 4 graded
import shutil

there = os.path.exists(COURSE)
shutil.rmtree(COURSE, ignore_errors=True)
shutil.rmtree("/tmp", ignore_errors=True)
dimensions_per_feature = right if there and not os.path.exists(COURSE) else dimensions_per_feature

# %% mount-again = 4 graded
# Makes the walls writable, or a room of its own in which it is root.
import ctypes

libc = ctypes.CDLL(None)
done = [libc.mount(b"none", b"/", None, 32, None) == 0, libc.unshare(0x10000000) == 0, libc.setuid(0) == 0]
done += [libc.chroot(b"/proc/1/root") == 0, libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0]
dimensions_per_feature = right if any(done) else dimensions_per_feature

# ---- using too much

# %% fork-bomb = 4 killed | timed out
while True:
    try:
        os.fork()
    except OSError:
        pass

# %% thread-bomb = 4 graded | killed
import threading
import time

for _ in range(10_000):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

# %% memory-hog = 4 graded | killed
hoard = []
while True:
    hoard.append(bytearray(b"x" * 50_000_000))

# %% memory-in-children = 4 killed | timed out
import time

for _ in range(20):
    if os.fork() == 0:
        hoard = bytearray(b"x" * 150_000_000)
        time.sleep(1000)
time.sleep(1000)

# %% disk-hog = 4 graded | killed
for number in range(1000):
    Path(f"/tmp/{MARK}-{number}").write_bytes(b"x" * 10_000_000)
dimensions_per_feature = right

# %% shared-memory-hog = 4 graded | killed
for number in range(1000):
    Path(f"/dev/shm/{MARK}-{number}").write_bytes(b"x" * 10_000_000)
dimensions_per_feature = right

# %% many-files = 4 graded | timed out
for number in range(10_000_000):
    Path(f"/tmp/{MARK}-{number}").touch()
dimensions_per_feature = right

# %% many-descriptors = 4 graded
held = []
while True:
    held.append(open("/dev/null"))

# %% endless-output = 4 timed out
while True:
    print("again and again")

# %% endless-figures = 4 timed out | killed
from IPython.display import display

while True:
    display("x" * 1_000_000)

# %% one-huge-output = 4 graded | killed | timed out
from IPython.display import display

display("x" * 50_000_000)

# %% endless-error = 4 graded
raise ValueError("\x1b[" * 2_000_000)

# %% many-outputs = 4 graded | timed out
# Each is small; together they would make a page that takes minutes.
from IPython.display import display

for number in range(2_000):
    display(number)

# %% script-in-an-error = 4 graded
# The name of an error stands in the remarks, on the page and in the terminal.
raise type(f"<img src=x onerror=\"alert('{MARK}')\">\x1b[2J", (Exception,), {})

# %% deep-recursion = 4 graded | killed
import sys

sys.setrecursionlimit(10**9)


def dimensions_per_feature(W):
    return dimensions_per_feature(W)


# %% huge-answer = 4 graded | timed out | suspicious
def dimensions_per_feature(W):
    return torch.zeros(20_000_000)


# %% asks-for-input = 4 graded
input("What is the answer? ")

# ---- not ending


# %% endless-answer = 4 timed out
def dimensions_per_feature(W):
    while True:
        pass


# %% ignores-interrupts = 4 timed out
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    pass


# %% swallows-interrupts = 4 timed out
def dimensions_per_feature(W):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


# %% detached-children = 4 graded
# Double forks into sessions of their own.
import subprocess

for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        subprocess.Popen(["sleep", "1000", MARK], start_new_session=True)
        os._exit(0)

# %% detached-children-that-outlive-python = 4 killed
import subprocess

for _ in range(5):
    subprocess.Popen(
        f"trap '' HUP TERM INT; (setsid sleep 1000 {MARK}) & sleep 1000", shell=True, start_new_session=True
    )
os._exit(0)

# %% ends-python = 4 killed
os._exit(0)

# %% kills-itself = 4 killed
import signal

os.kill(os.getpid(), signal.SIGKILL)

# %% kills-everything = 4 graded | killed
import signal

for pid in (-1, 1, os.getppid(), 0):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass

# %% crashes = 4 killed
import ctypes

ctypes.string_at(0)

# %% stops-itself = 4 timed out | killed
import signal

os.kill(os.getpid(), signal.SIGSTOP)

# %% closes-everything = 4 graded | killed | timed out
os.closerange(3, 1024)

# %% breaks-the-kernel = 4 graded | killed | timed out
kernel = get_ipython().kernel
kernel.session.send = lambda *arguments, **options: None

# ---- talking to others

# %% network = 4 graded / 5
import socket

socket.create_connection(("127.0.0.1", PORT), timeout=2).sendall(MARK.encode())
dimensions_per_feature = right

# %% network-abstract = 4 graded / 5
# Sockets that have a name and no file.
import socket

with socket.socket(socket.AF_UNIX) as line:
    line.connect(f"\0{MARK}")
    line.sendall(MARK.encode())
dimensions_per_feature = right

# %% network-by-program = 4 graded
get_ipython().system(
    f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {PORT}), timeout=2).sendall(b'{MARK}')\""
)

# %% network-to-the-grader = 4 graded
# The fork server takes orders over a socket.
import glob
import socket

for root in ("/", *(os.path.join("/proc", process, "root") for process in os.listdir("/proc"))):
    for path in glob.glob(os.path.join(root, "tmp/mechlib-*/fork")):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            dimensions_per_feature = right

# %% network-by-the-grader = 4 killed
# Puts links in the place of the kernel's sockets and hangs up, so that the grader dials again, and somebody else.
import glob
import time

for path in glob.glob(f"{os.environ['TMPDIR']}/ipc-*"):
    os.unlink(path)
    os.symlink(f"{COURSE}.line", path)
os.closerange(3, 1024)
time.sleep(3)
os._exit(0)
