"""Keep kernels and libraries from writing between the lines of a progress bar."""

from __future__ import annotations

import logging

QUIET_KERNEL = ["--IPKernelApp.log_level=ERROR"]  # no warning about unencrypted local sockets


def quiet_logger() -> logging.Logger:
    """A logger that says nothing: what matters comes back as results and exceptions."""
    logger = logging.getLogger("mechlib.grading")
    logger.propagate = False
    logger.handlers = [logging.NullHandler()]
    logger.setLevel(10)
    return logger
