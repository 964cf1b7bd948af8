"""Jupyter's kernel manager for a kernel that runs in a sandbox of ours."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerBase

from mechlib.grading.limits import MIB, Limits
from mechlib.grading.sandbox import Room, Sandbox

CHANNELS = ("shell", "iopub", "stdin", "hb", "control")
LARGEST_MESSAGE = 16 * MIB  # a kernel that sends a larger one is cut off
TIME_TO_START = 60  # seconds


class SandboxProvisioner(KernelProvisionerBase):
    """Starts and ends the kernel's room (Jupyter's name for who does that is a provisioner)."""

    def __init__(self, sandbox: Sandbox, limits: Limits, session_key: bytes):
        super().__init__()
        self.sandbox, self.limits, self.session_key = sandbox, limits, session_key
        self.room: Room | None = None

    @property
    def has_process(self) -> bool:
        return self.room is not None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        key = self.session_key
        connection: dict[str, Any] = {
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, start=1)},
            "key": key.decode(),
            "signature_scheme": "hmac-sha256",
            "transport": "ipc",
        }
        self.room = Room(self.sandbox, connection, self.limits)
        async with asyncio.timeout(TIME_TO_START):
            for number in range(1, len(CHANNELS) + 1):
                while not self.room.hold(number) and self.room.process.wait(0) is None:
                    await asyncio.sleep(0.02)
        self.connection_info = cast(KernelConnectionInfo, connection | {"key": key, "ip": self.room.ip})
        return self.connection_info

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        return {"cmd": []}  # the room knows what to start, and with which environment

    async def poll(self) -> int | None:
        return 0 if self.room is None else self.room.process.wait(0)

    async def wait(self) -> int | None:
        while (status := await self.poll()) is None:
            await asyncio.sleep(0.02)
        await self.cleanup()
        return status

    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGKILL:
            await self.kill()

    async def kill(self, restart: bool = False) -> None:
        if self.room:
            self.room.process.kill()

    terminate = kill

    async def cleanup(self, restart: bool = False) -> None:
        if self.room:
            self.room.close()
            self.room = None


class SandboxManager(AsyncKernelManager):
    """A kernel manager whose kernel is in a sandbox."""

    def __init__(self, sandbox: Sandbox, limits: Limits, **options: Any):
        super().__init__(transport="ipc", **options)
        self.context.maxmsgsize, self.context.rcvhwm = LARGEST_MESSAGE, 100
        self.provisioner = self.sandbox = SandboxProvisioner(sandbox, limits, self.session.key)

    @property
    def kernel_spec(self) -> KernelSpec:
        """In the room, a signal is a message: from outside we cannot tell which process is the kernel."""
        return KernelSpec(argv=[], display_name="Python 3", language="python", interrupt_mode="message")
