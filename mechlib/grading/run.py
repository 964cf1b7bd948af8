"""Execute one grafted submission in a sandbox and collect what its checks observed. Nothing is judged here.

`observe_submission` takes and returns plain data, so it runs wherever there is a sandbox: in a worker on this machine
or on another one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from mechlib.checker.wire import Desk
from mechlib.grading.limits import Limits
from mechlib.grading.manager import SandboxManager
from mechlib.grading.namespaces import NoSandbox
from mechlib.grading.quiet import quiet_logger
from mechlib.grading.sandbox import Sandbox
from mechlib.grading.watch import Watch

LONGEST_STREAM = 20_000  # characters of print that a cell keeps
LARGEST_OUTPUT = 5_000_000  # characters of figures that a cell keeps
GRACE = 5  # seconds that a cell has to stop after it was interrupted


@dataclass
class Run:
    """How the execution went, and what the checks observed; the outputs are in the notebook itself."""

    timed_out: list[str] = field(default_factory=list)  # ids of cells that were stopped
    died: str = ""  # the id of the cell at which the kernel was lost, if it was
    reason: str = ""  # why the sandbox was ended, if it was
    outcomes: dict[str, list[bytes]] = field(default_factory=dict)  # by exercise, one for each case
    borrowed: list[str] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)  # what no honest kernel sends


def observe_submission(
    notebook: NotebookNode, requests: Mapping[str, Sequence[bytes]], limits: Limits, sandbox: Sandbox
) -> Run:
    """Execute `notebook` in place. Never raises for what a submission does.

    A cell that takes too long is interrupted and the next ones still run; when it cannot be interrupted, or the
    kernel dies, the checks so far keep their outcomes.

    requests: the encoded cases of each exercise (`mechlib.checker.observe.request`).

    Raises:
        NoSandbox: there was no kernel to begin with.
    """
    run = Run()
    with sandbox.new_folder() as folder:
        manager = SandboxManager(sandbox, limits, connection_file=str(Path(folder) / "kernel.json"))
        client = _Client(notebook, manager, run, requests, limits)
        try:
            client.execute()
        except (DeadKernelError, CellTimeoutError) as error:
            client.lose_kernel(error)
        except Exception as error:  # what the kernel sends may break every assumption of the libraries
            client.lose_kernel(error)
        finally:
            client.close()
    return run


class _Client(NotebookClient):
    """nbclient, told to go on after errors and time limits, and to keep no more than a screenful of print."""

    def __init__(
        self,
        notebook: NotebookNode,
        manager: SandboxManager,
        run: Run,
        requests: Mapping[str, Sequence[bytes]],
        limits: Limits,
    ):
        super().__init__(
            notebook,
            km=manager,
            timeout=limits.cell,
            allow_errors=True,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": "TimeLimit", "evalue": "", "traceback": []},
            iopub_timeout=GRACE,
            raise_on_iopub_timeout=True,
            shutdown_kernel="immediate",
            log=quiet_logger(),
            on_cell_execute=self._cell_started,
            on_cell_executed=self._cell_finished,
        )
        self.manager, self.run, self.requests, self.limits = manager, run, requests, limits
        self.desk: Desk | None = None
        self.watch: Watch | None = None
        self.current, self.printed, self.shown = "", 0, 0

    async def async_start_new_kernel(self, **kwargs: object) -> None:
        await super().async_start_new_kernel(**kwargs)
        room = self.manager.sandbox.room
        assert room
        self.desk = Desk(Connection(room.desk), self.requests)
        self._serving = threading.Thread(target=self.desk.serve, daemon=True)
        self._serving.start()
        self.watch = Watch(room.process.pid, self.limits).__enter__()

    def close(self) -> None:
        """End the kernel with everything that it has started, and take in what came from it."""
        if self.manager.has_kernel:
            self._cleanup_kernel()
        if self.watch:
            self.watch.__exit__()
            self.run.reason = self.watch.reason
        if self.desk:
            self._serving.join()
            self.run.outcomes, self.run.borrowed = self.desk.outcomes, sorted(self.desk.borrowed)
            self.run.forged = self.desk.forged

    def lose_kernel(self, error: Exception) -> None:
        """Note at which cell the kernel died or could not be stopped, and say so in that cell."""
        cell = next((cell for cell in self.nb.cells if cell.id == self.current), None)
        if cell is None:
            raise NoSandbox((self.desk and self.desk.refused) or f"the kernel did not start: {error}") from None
        self.run.died = cell.id
        if isinstance(error, CellTimeoutError):
            self.run.timed_out.append(cell.id)
            reason = f"this took longer than {self.timeout:g} s and could not be stopped, so Python was ended"
        elif isinstance(error, DeadKernelError):
            reason = "Python ended while this ran (too much memory, or a call that exits)"
        else:
            reason = f"Python sent what could not be understood ({type(error).__name__}), so it was ended"
        if self.watch and self.watch.reason:
            reason = f"Python was ended while this ran: {self.watch.reason}"
        cell.outputs.append(explained_error("KernelLost", f"{reason}; the cells below did not run."))

    def _cell_started(self, cell: NotebookNode, cell_index: int) -> None:
        self.current, self.printed, self.shown = cell.id, 0, 0
        if self.desk:
            self.desk.current = cell.metadata.get("check", "")

    def _cell_finished(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        if self.desk:
            self.desk.current = ""
        content = execute_reply["content"]
        if content["status"] != "error":
            return
        if content["ename"] == "TimeLimit":
            self.run.timed_out.append(cell.id)
            cell.outputs = [output for output in cell.outputs if output.output_type == "stream"]
            cell.outputs.append(explained_error("TimeLimit", f"Stopped: this took longer than {self.timeout:g} s."))
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
        else:
            self.shown += len(str(msg["content"]))
            if self.shown > LARGEST_OUTPUT:
                return None
        return super().output(outs, msg, display_id, cell_index)

    def handle_comm_msg(self, outs, msg, cell_index):
        """Widgets are for people."""


def explained_error(name: str, message: str) -> NotebookNode:
    """An error output that reads as one plain line."""
    return new_output("error", ename=name, evalue=message, traceback=[f"{name}: {message}"])
