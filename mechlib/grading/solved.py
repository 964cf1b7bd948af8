"""Execute a chapter's solved notebook; keep the outputs that are small and say nothing of this machine."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from mechlib.grading.quiet import QUIET_KERNEL
from mechlib.grading.source import NOTEBOOK_METADATA

LARGEST_NOTEBOOK = 1_500_000  # bytes
LARGEST_HTML = 100_000  # characters; an interactive figure carries its JavaScript with it
WIDGETS = "application/vnd.jupyter.widget-view+json"
BAR_TIMES = re.compile(r" \[\d+:\d+<[^]]*\]")  # tqdm: [00:05<00:00, 204.40it/s], another time each time


class ExecutionFailed(Exception):
    """A cell of the solved notebook failed."""


def execute(notebook: NotebookNode, timeout: int = 600) -> None:
    """Run every cell in place, in an empty folder, as a student with nothing but the wheel would."""
    from tqdm import tqdm

    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(notebook.cells), desc="    cells", file=sys.stdout, leave=False, disable=None) as bar,
    ):
        client = NotebookClient(
            notebook,
            timeout=timeout,
            record_timing=False,
            coalesce_streams=True,
            store_widget_state=False,
            resources={"metadata": {"path": folder}},
            shutdown_kernel="immediate",
            extra_arguments=QUIET_KERNEL,
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).strip()  # without its colours
            raise ExecutionFailed(f"a cell failed with {error.ename}: {error.evalue}\n{traceback}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise ExecutionFailed(f"the notebook did not finish: {error}") from None
        tidy(notebook, machine_paths=[folder, sys.prefix])


def tidy(notebook: NotebookNode, machine_paths: list[str]) -> None:
    """Drop warnings, widgets, heavy HTML and progress bars' times; refuse outputs that name this machine's folders."""
    notebook.metadata["language_info"] = dict(NOTEBOOK_METADATA["language_info"])  # the kernel put its version in
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_kept(output)]
            for output in cell.outputs:
                if output.get("name") == "stdout":
                    output.text = BAR_TIMES.sub("", output.text)
                if len(output.get("data", {}).get("text/html", "")) > LARGEST_HTML:
                    output.data["text/html"] = "<em>An interactive figure: run the cell to see it.</em>"
                if any(path in str(output) for path in machine_paths):
                    raise ExecutionFailed(f"the cell {cell.id} prints a path of this machine.")


def _is_kept(output: NotebookNode) -> bool:
    return output.get("name") != "stderr" and WIDGETS not in output.get("data", {})


def read_notebook(path: Path) -> NotebookNode | None:
    """A notebook that we wrote earlier, or None if there is none that can be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError):
        return None


def carry_outputs(old: NotebookNode | None, new: NotebookNode) -> bool:
    """Give `new` the outputs of `old` if their code is the same; say whether that was so."""
    if old is None or not same_code(old, new):
        return False
    old_cells = [cell for cell in old.cells if cell.cell_type == "code"]
    new_cells = [cell for cell in new.cells if cell.cell_type == "code"]
    for before, now in zip(old_cells, new_cells, strict=True):
        now.outputs, now.execution_count = before.outputs, before.execution_count
    return True


def same_code(old: NotebookNode, new: NotebookNode) -> bool:
    """Whether the code cells, and the hash with which they were executed, are the same."""
    codes = [[cell.source for cell in notebook.cells if cell.cell_type == "code"] for notebook in (old, new)]
    return codes[0] == codes[1] and old.metadata.get("mechlib") == new.metadata.get("mechlib")


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy without outputs and execution counts."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copy
