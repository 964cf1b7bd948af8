"""Execute one grafted submission and make sure that every check has a verdict.

`run_submission` is the seam for a later judge in two processes, a sandbox, a fork server: whatever replaces
it takes a grafted notebook and executes it in place, so that nbgrader finds a verdict in every check cell.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from dataclasses import dataclass, field

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from mechlib.grading.quiet import QUIET_KERNEL, quiet_logger

LONGEST_STREAM = 20_000  # characters of print that a cell keeps
GRACE = 5  # seconds that a cell has to stop after it was interrupted


@dataclass
class Run:
    """How the execution went; the outputs are in the notebook itself."""

    timed_out: list[str] = field(default_factory=list)  # ids of cells that were stopped
    died: str = ""  # the id of the cell at which the kernel was lost, if it was


def run_submission(notebook: NotebookNode, timeout: int, seed: int) -> Run:
    """Execute `notebook` in place and settle its checks. Never raises for what a submission does.

    timeout: seconds a cell. A cell that takes longer is interrupted and the next ones still run; when it
        cannot be interrupted, or the kernel dies, the checks so far keep their verdicts, the others have 0.
    seed: what the checks draw their cases from; students do not see it.
    """
    run = Run()
    with tempfile.TemporaryDirectory() as folder:
        client = _Client(
            notebook,
            record=run,
            timeout=timeout,
            resources={"metadata": {"path": folder}},
        )
        environment = os.environ | {"NBGRADER_EXECUTION": "autograde", "MECHLIB_SEED": str(seed)}
        try:
            client.execute(env=environment, stderr=subprocess.DEVNULL)
        except (DeadKernelError, CellTimeoutError) as error:
            client.lose_kernel(error)
    for cell in notebook.cells:
        if "check" in cell.metadata:
            settle(cell, run)
    return run


class _Client(NotebookClient):
    """nbclient, told to go on after errors and time limits, and to keep no more than a screenful of print."""

    def __init__(self, notebook: NotebookNode, record: Run, **options):
        super().__init__(
            notebook,
            allow_errors=True,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": "TimeLimit", "evalue": "", "traceback": []},
            iopub_timeout=GRACE,
            raise_on_iopub_timeout=True,
            shutdown_kernel="immediate",
            extra_arguments=QUIET_KERNEL,
            log=quiet_logger(),
            on_cell_execute=self._started,
            on_cell_executed=self._finished,
            **options,
        )
        self.record, self.current, self.printed = record, "", 0

    def _started(self, cell: NotebookNode, cell_index: int) -> None:
        self.current, self.printed = cell.id, 0

    def lose_kernel(self, error: Exception) -> None:
        """Note at which cell the kernel died or could not be stopped, and say so in that cell."""
        cell = next(cell for cell in self.nb.cells if cell.id == self.current)
        self.record.died = cell.id
        if isinstance(error, CellTimeoutError):
            self.record.timed_out.append(cell.id)
            reason = f"this took longer than {self.timeout} s and could not be stopped, so Python was ended"
        else:
            reason = "Python ended while this ran (too much memory, or a call that exits)"
        cell.outputs.append(explained_error("KernelLost", f"{reason}; the cells below did not run."))

    def _finished(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        content = execute_reply["content"]
        if content["status"] != "error":
            return
        if content["ename"] == "TimeLimit":
            self.record.timed_out.append(cell.id)
            cell.outputs = [output for output in cell.outputs if output.output_type == "stream"]
            cell.outputs.append(explained_error("TimeLimit", f"Stopped: this took longer than {self.timeout} s."))
        elif not any(output.output_type == "error" for output in cell.outputs):
            cell.outputs.append(explained_error(content["ename"], content["evalue"]))

    def output(self, outs, msg, display_id, cell_index):
        """Drop what is printed beyond the limit at once, or an endless loop that prints fills the memory."""
        if msg["msg_type"] == "stream":
            room = LONGEST_STREAM - self.printed
            text = msg["content"]["text"]
            self.printed += len(text)
            if room <= 0:
                return None
            if len(text) > room:
                msg["content"]["text"] = text[:room] + "\n... (the rest of the output was cut)\n"
        return super().output(outs, msg, display_id, cell_index)


def explained_error(name: str, message: str) -> NotebookNode:
    """An error output that reads as one plain line."""
    return new_output("error", ename=name, evalue=message, traceback=[f"{name}: {message}"])


# ---- verdicts


def settle(cell: NotebookNode, run: Run) -> None:
    """Leave in a check cell what nbgrader reads as the verdict that it is: nothing, or nonsense, is 0.

    nbgrader gives full marks to a cell without a result, and none to one that has warned.
    """
    for output in cell.outputs:
        if output.get("name") == "stderr":
            output["name"] = "stdout"
    verdict = earned(cell)
    kept = [output for output in cell.outputs if output.output_type not in ("error", "execute_result")]
    errors = [output for output in cell.outputs if output.output_type == "error"]
    results = [output for output in cell.outputs if output.output_type == "execute_result"]
    if verdict is None and not errors:
        reason = "Python ended before this check ran" if run.died else "this check gave no number of points"
        errors, results = [explained_error("NoVerdict", f"{reason}; it counts as 0.")], []
    for error in errors:
        if error.ename == "CheckFailed":
            error.traceback = [error.evalue]  # the message is written for students, the way through our code is not
    cell.outputs = kept + (errors or results)


def earned(cell: NotebookNode) -> float | None:
    """The points in a check cell's only result, if that is a number from 0 to what the cell is worth."""
    results = [output for output in cell.outputs if output.output_type == "execute_result"]
    if len(results) != 1 or any(output.output_type == "error" for output in cell.outputs):
        return None
    try:
        points = float(results[0]["data"]["text/plain"])
    except (KeyError, TypeError, ValueError):
        return None
    return points if math.isfinite(points) and 0 <= points <= cell.metadata["nbgrader"]["points"] else None
