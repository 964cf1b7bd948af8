"""The conversation between a check in a student's kernel and the desk of the grader, in another process.

The kernel asks for an exercise's cases; the desk hands out one after the other and keeps what comes back as bytes.
The cases are made from the grader's secret seed, so nobody knows them beforehand; what an answer should give never
crosses.

    kernel  ? turn exercise          I am checking this exercise
    desk    turn nonce case          here is a case (without one: there are no more)
    kernel  ! nonce outcome          this is what the answer did (without one: the answer was borrowed)

Everything on the kernel's side may have been rewritten by a student. So the desk hands out cases only while the
released check of that exercise runs, and only once; and it takes an outcome only for the case that it has handed out
last, which the nonce proves. A student's code can still answer a case by other means than the answer. It then computes
what the exercise asks for, from inputs that it has not seen before: no forgery, but a solution.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from mechlib.checker.encoding import MAX_BYTES, MAX_TREE_BYTES
from mechlib.checker.exercise import Exercise
from mechlib.checker.observe import observe
from mechlib.checker.run import encode_outcome

VARIABLE = "MECHLIB_DESK"  # the kernel's file descriptor of the conversation
ASK, ANSWER, NO_KERNEL = b"?", b"!", b"x"
TOKEN = 16  # bytes, of a turn and of a nonce
LONGEST_REPLY = 1 + TOKEN + MAX_BYTES + MAX_TREE_BYTES
MOST_BYTES = 2 * LONGEST_REPLY  # of all outcomes of a submission together


# ---- the kernel's side


@cache
def desk() -> Connection:
    """The kernel's end of the conversation."""
    return Connection(int(os.environ[VARIABLE]))


def deliver(exercise: Exercise, answer: Any, connection: Connection) -> None:
    """Run the answer on every case that the desk hands out."""
    turn = os.urandom(TOKEN)
    connection.send_bytes(ASK + turn + exercise.id.encode())
    while True:
        message = connection.recv_bytes()
        if message[:TOKEN] != turn:
            continue  # meant for an earlier check, which was interrupted
        nonce, case = message[TOKEN : 2 * TOKEN], message[2 * TOKEN :]
        if not case:
            return
        borrowed = answer is exercise.reference
        outcome = b"" if borrowed else encode_outcome(observe(answer, case, exercise.reference))
        connection.send_bytes(ANSWER + nonce + outcome)


# ---- the grader's side


class Desk:
    """Hands out cases and keeps outcomes. `serve` runs in a thread of its own.

    Set `current` to the exercise whose released check begins to run, and to "" when it has ended.

    requests: the encoded cases of each exercise (`observe.request`), in order.
    """

    def __init__(self, connection: Connection, requests: Mapping[str, Sequence[bytes]]):
        self.connection, self.requests = connection, requests
        self.current = ""
        self.outcomes: dict[str, list[bytes]] = {}
        self.borrowed: set[str] = set()
        self.forged: list[str] = []  # what no honest kernel sends, in words
        self.refused = ""  # why the sandbox could not be entered, so that there is no kernel
        self._turn = b""
        self._asked = ""  # the exercise of this turn
        self._handed_out: dict[bytes, str] = {}  # every nonce so far, and its exercise
        self._waiting = b""  # the nonce of the last one
        self._left = MOST_BYTES

    def serve(self) -> None:
        """Answer until the kernel is gone."""
        try:
            while True:
                message = self.connection.recv_bytes(LONGEST_REPLY)
                self._left -= len(message)
                if self._left < 0:
                    self._note("more outcomes than an answer can have")
                    break
                self._on_message(message)
        except EOFError:
            pass
        except OSError as error:
            if "bad message length" in str(error):  # multiprocessing's words for more than LONGEST_REPLY
                self._note("an outcome larger than an answer can have")
        finally:
            self.connection.close()

    def _on_message(self, message: bytes) -> None:
        kind, token, rest = message[:1], message[1 : 1 + TOKEN], message[1 + TOKEN :]
        if kind == NO_KERNEL:
            self.refused = message[1:500].decode(errors="replace")
        elif kind == ASK:
            self._turn, self._asked, self._waiting = token, "", b""
            asked = rest[:200].decode(errors="replace")
            if asked == self.current and asked in self.requests and asked not in self.outcomes:
                self._asked, self.outcomes[asked] = asked, []
            self._hand_out()
        elif kind == ANSWER and token == self._waiting and self._asked and self._asked == self.current:
            if rest:
                self.outcomes[self._asked].append(rest)
            else:
                self.borrowed.add(self._asked)
            self._hand_out()
        elif kind != ANSWER or token not in self._handed_out:
            self._note("an outcome for a case that was not handed out")
        elif self._handed_out[token] == self.current:
            self._note("more than one outcome for a case")
        # else: a late outcome of a check that was stopped, which counts for nothing

    def _hand_out(self) -> None:
        """The next case of the exercise that was asked for, if it has one and was not borrowed."""
        done = len(self.outcomes.get(self._asked, ()))
        cases = [] if self._asked in self.borrowed else self.requests.get(self._asked, ())[done:]
        self._waiting = os.urandom(TOKEN) if cases else b""
        if cases:
            self._handed_out[self._waiting] = self._asked
        self.connection.send_bytes(self._turn + (self._waiting + cases[0] if cases else b""))

    def _note(self, what: str) -> None:
        if what not in self.forged:
            self.forged.append(what)
