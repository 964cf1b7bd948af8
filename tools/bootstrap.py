"""Make .venv and install mechlib into it: what `make lab` and `make test` do first.

Only the standard library, in syntax that an old Python can still read, because it has to run there to say so.
A second call compares one stamp and is done. A half-finished installation has no stamp, so it is finished.
"""

from __future__ import print_function

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

OLDEST = (3, 11)
NEWEST_TESTED = (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GB = 4  # what an installation takes at its largest, downloads included
NEEDED_GB_CUDA = 12  # the same with torch's CUDA libraries
DOWNLOADS = "https://www.python.org/downloads/"


class Stop(Exception):
    """Something the user has to change; the message says what, in a sentence."""


def main(argv=None):
    options = parse(argv)
    try:
        try:
            bootstrap(options)
        except EnvironmentError as error:
            explain(str(error))
            raise Stop("Setting up {0} failed: {1}".format(short(options.venv), error))  # noqa: B904
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Make a virtual environment and install mechlib into it.")
    parser.add_argument("--extras", default="lab", help="extras to install, with commas (default: lab)")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="where (default: .venv)")
    parser.add_argument(
        "--constraints",
        default=os.path.join("requirements", "tested.txt"),
        help="pinned versions; '' for the newest of everything (default: requirements/tested.txt)",
    )
    parser.add_argument(
        "--torch",
        choices=["auto", "cpu", "default"],
        default=os.environ.get("TORCH") or "auto",
        help="cpu: torch's CPU build; default: whatever pip finds; auto: cpu where Linux has no NVIDIA GPU",
    )
    options = parser.parse_args(argv)
    if options.torch not in ("auto", "cpu", "default"):
        parser.error("TORCH is cpu or default, not {0!r}".format(options.torch))
    options.extras = sorted({name.strip() for name in options.extras.split(",") if name.strip()})
    return options


def bootstrap(options):
    python = venv_python(options.venv)
    stamp = read_stamp(options.venv)
    key = fingerprint(options.constraints)
    if stamp and stamp["key"] == key and set(options.extras) <= set(stamp["extras"]) and os.path.exists(python):
        tell_which_python(stamp["python"])
        return

    finished = stamp and os.path.exists(python)  # then it is kept, with the Python it was made with
    if not finished:
        check_version(sys.version_info)
    check_disk(options.venv, NEEDED_GB)
    extras = sorted(set(options.extras) | set(stamp["extras"] if stamp else []))
    remove_stamp(options.venv)
    if not finished:
        make_venv(options.venv)

    log = os.path.join(options.venv, "install.log")
    say("Installing mechlib[{0}] into {1}: a few minutes, once.".format(",".join(extras), short(options.venv)))
    open(log, "w").close()
    constraints = ["-c", os.path.join(ROOT, options.constraints)] if options.constraints else []
    if not has_torch(options.venv) and sys.platform.startswith("linux"):
        if wants_cpu_torch(options.torch, python):
            pip(python, ["install", "--no-deps", "--index-url", CPU_INDEX, "torch"] + constraints, log)
        elif not pip_has_its_own_index(python):
            check_disk(options.venv, NEEDED_GB_CUDA)
    upgrade = [] if constraints else ["--upgrade", "--upgrade-strategy", "eager"]
    pip(python, ["install"] + upgrade + ["-e", ROOT + "[" + ",".join(extras) + "]"] + constraints, log)
    version = subprocess.check_output(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], universal_newlines=True
    ).strip()
    write_stamp(options.venv, {"key": key, "extras": extras, "python": version})


# What can be wrong with the machine


def check_version(version, executable=None):
    """Stop if this Python is too old, naming a newer one that is on the machine."""
    if tuple(version[:2]) >= OLDEST:
        return
    wanted = ".".join(str(part) for part in OLDEST)
    message = "mechlib needs Python {0} or newer; this is Python {1} ({2}). ".format(
        wanted, ".".join(str(part) for part in version[:3]), executable or sys.executable
    )
    newer = newer_python()
    if newer:
        raise Stop(message + "There is a newer one on this machine: run `make lab PYTHON={0}`.".format(newer))
    raise Stop(message + "Install a newer one from {0}, then run `make lab PYTHON=python3.12`.".format(DOWNLOADS))


def newer_python():
    """The name of a Python on the path that is new enough, or None."""
    for minor in (13, 12, 11, 14):
        name = "python3.{0}".format(minor)
        try:
            code = subprocess.call([name, "-c", "import ensurepip"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except (OSError, ValueError):
            continue
        if code == 0:
            return name
    return None


def check_disk(venv, needed_gb):
    """Stop if the disk that holds the environment cannot take what is still to be installed."""
    folder = os.path.abspath(venv)
    needed_gb -= installed_gb(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise Stop(
            "The disk is full: installing mechlib needs about {0:.0f} GB free in {1}, "
            "and {2:.1f} GB are free there.".format(max(needed_gb, 1), folder, free_gb)
        )


def installed_gb(venv):
    """A rough size of what is there already: the course's libraries are 2 GB, most of it torch."""
    return 2 if has_torch(venv) else 0


def gpu_present():
    return bool(shutil.which("nvidia-smi")) or os.path.exists("/proc/driver/nvidia")


def wants_cpu_torch(choice, python):
    """On Linux, PyPI's torch brings gigabytes of CUDA: useless without an NVIDIA GPU.

    Where pip has been told where to look for packages, that is left alone.
    """
    if choice != "auto":
        return choice == "cpu"
    return not gpu_present() and not pip_has_its_own_index(python)


def pip_has_its_own_index(python):
    listing = subprocess.check_output([python, "-m", "pip", "config", "list"], universal_newlines=True)
    return bool(re.search(r"^\S*\.(index-url|extra-index-url|find-links|no-index)=", listing, re.MULTILINE))


# The environment


def venv_python(venv):
    return os.path.join(venv, "Scripts", "python.exe") if os.name == "nt" else os.path.join(venv, "bin", "python")


def has_torch(venv):
    libraries = os.path.join(venv, "lib")
    if os.name == "nt":
        return os.path.isdir(os.path.join(libraries, "site-packages", "torch"))
    names = os.listdir(libraries) if os.path.isdir(libraries) else []
    return any(os.path.isfile(os.path.join(libraries, n, "site-packages", "torch", "version.py")) for n in names)


def make_venv(venv):
    """A new environment, or what a call that stopped half way left of one."""
    python = venv_python(venv)
    if os.path.exists(python) and same_python(python) and quiet([python, "-m", "pip", "--version"]):
        return
    try:
        import ensurepip  # noqa: F401
        import venv as module  # noqa: F401
    except ImportError:
        raise Stop(  # noqa: B904 (`from` would not parse everywhere)
            "This Python ({0}) cannot make virtual environments: on Debian or Ubuntu, "
            "`sudo apt install python3-venv` adds what is missing.".format(sys.executable)
        )
    say("Making a virtual environment in {0} with Python {1}.{2}.".format(short(venv), *sys.version_info[:2]))
    command = [sys.executable, "-m", "venv", "--clear", venv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    output = process.communicate()[0]
    if process.returncode:
        explain(output)
        raise Stop("Making {0} failed:\n{1}".format(short(venv), output.strip()))


def same_python(python):
    program = "import sys; sys.exit(sys.version_info[:2] != ({0}, {1}))".format(*sys.version_info[:2])
    return quiet([python, "-c", program])


def quiet(command):
    try:
        return subprocess.call(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) == 0
    except OSError:
        return False


def pip(python, arguments, log):
    """Run pip with its output in a log, and on a terminal one line of what it is doing."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1")
    scratch = os.path.join(os.path.dirname(log), "tmp")
    if os.name != "nt":  # a small /tmp must not be what stops the installation
        if not os.path.isdir(scratch):
            os.makedirs(scratch)
        environment["TMPDIR"] = scratch
    command = [python, "-m", "pip", "--no-input"] + arguments
    lines = []
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            env=environment,
        )
        with open(log, "a") as file:
            for line in process.stdout or []:
                lines.append(line)
                file.write(line)
                file.flush()
                progress(line)
        code = process.wait()
    finally:
        progress("")
        shutil.rmtree(scratch, ignore_errors=True)
    if code:
        explain("".join(lines))
        tail = "".join(lines[-15:]).rstrip()
        message = "{0}\npip could not install everything; its whole output is in {1}.".format(tail, short(log))
        if sys.version_info[:2] > NEWEST_TESTED:
            message += " The course is tested with Python {0}.{1} to {2}.{3}: ".format(*OLDEST + NEWEST_TESTED)
            message += "`make clean`, then `make lab PYTHON=python{0}.{1}`.".format(*NEWEST_TESTED)
        raise Stop(message)


def progress(line):
    if not sys.stdout.isatty():
        return
    found = re.match(r"\s*(Collecting|Downloading|Building|Installing) ?([^\s<>=!~;]*)", line)
    if found:
        text = "  {0} {1}".format(found.group(1).lower(), found.group(2)).replace("installing collected", "unpacking")
        sys.stdout.write("\r" + text[:78].ljust(79))
    elif not line:
        sys.stdout.write("\r" + " " * 79 + "\r")
    sys.stdout.flush()


def explain(output):
    """Stop with one sentence for the two things that are wrong with a machine rather than with the course."""
    if re.search(r"No space left on device|Errno 28|Disk quota exceeded|Errno 122", output):
        raise Stop(
            "The disk is full: there was no space left while installing; mechlib needs about {0} GB, "
            "so free some and run the same command again.".format(NEEDED_GB)
        )
    offline = (
        r"NewConnectionError|NameResolutionError|name resolution|getaddrinfo failed|nodename nor servname"
        r"|Max retries exceeded|ConnectTimeoutError|ReadTimeoutError|ProxyError|Network is unreachable"
    )
    if re.search(offline, output):
        host = CPU_INDEX.split("/")[2]
        hint = " (with TORCH=default, if it is only {0} that you cannot reach)".format(host) if host in output else ""
        raise Stop(
            "The packages could not be downloaded: check the network and the proxy, and run the same command "
            "again{0}.".format(hint)
        )


# The stamp: what was installed, written when it all was


def stamp_file(venv):
    return os.path.join(venv, "mechlib-stamp.json")


def fingerprint(constraints):
    digest = hashlib.sha256(ROOT.encode("utf-8"))
    for name in ["pyproject.toml"] + ([constraints] if constraints else []):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read() + b"\0")
    return digest.hexdigest()


def read_stamp(venv):
    try:
        with open(stamp_file(venv)) as file:
            stamp = json.load(file)
        return stamp if {"key", "extras", "python"} <= set(stamp) else None
    except (EnvironmentError, ValueError):
        return None


def remove_stamp(venv):
    if os.path.exists(stamp_file(venv)):
        os.remove(stamp_file(venv))


def write_stamp(venv, stamp):
    half = stamp_file(venv) + ".new"
    with open(half, "w") as file:
        json.dump(stamp, file)
    os.rename(half, stamp_file(venv))


def tell_which_python(version):
    running = "{0}.{1}".format(*sys.version_info[:2])
    if sys.version_info[:2] >= OLDEST and running != version:
        print(
            ".venv keeps its Python {0} (this is {1}): `make clean` and start again to change it.".format(
                version, running
            )
        )


def say(text):
    print(text)
    sys.stdout.flush()


def short(path):
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(main())
