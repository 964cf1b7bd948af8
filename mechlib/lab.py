"""`mechlib lab`: JupyterLab on the chapters."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HELP = """\
usage: mechlib lab [FOLDER] [JUPYTER OPTIONS]

Open the chapters in JupyterLab, or another FOLDER of notebooks. Everything else is passed on, for example

  mechlib lab --no-browser --port=8899

and `jupyter lab --help-all` lists what there is. Ctrl-C ends it.
"""


def main(arguments: Sequence[str] = ()) -> int:
    """Start JupyterLab; the exit code says how that went."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return 0
    options = list(arguments)
    folder = find_folder(Path(options.pop(0)) if options and not options[0].startswith("-") else None)
    if isinstance(folder, str):
        print(f"mechlib: {folder}", file=sys.stderr)
        return 1
    if importlib.util.find_spec("jupyterlab") is None:
        print("mechlib: `mechlib lab` needs JupyterLab: pip install 'mechlib[lab]'", file=sys.stderr)
        return 1
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; JupyterLab would refuse
        options.append("--allow-root")
    return run([sys.executable, "-m", "jupyterlab", str(folder), *options])


def find_folder(asked: Path | None) -> Path | str:
    """The folder to open, or a sentence that says why there is none."""
    if asked is not None:
        return asked if asked.is_dir() else f"there is no folder {asked}."
    checkout = Path(__file__).resolve().parent.parent
    for chapters in (Path("chapters"), checkout / "chapters"):
        if chapters.is_dir():
            return chapters
    if any(Path().glob("*.ipynb")):
        return Path()
    return (
        "there is no chapters/ here: run this in the course's folder "
        f"(git clone {repository()}), or name a folder: mechlib lab FOLDER"
    )


def repository() -> str:
    """The course's public address, which stands in pyproject.toml alone."""
    urls = metadata.metadata("mechlib").get_all("Project-URL") or []
    return dict(url.split(", ", 1) for url in urls)["Repository"]


def run(command: list[str]) -> int:
    """Become JupyterLab, so that signals reach it; Windows cannot, so there we wait for it."""
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # JupyterLab was told too, and ends by itself
            continue
