"""The desk hands out cases once, at their time, and takes nothing else than their outcomes."""

import os
import socket
import threading
from multiprocessing.connection import Connection

import pytest
import torch

from mechlib import exercises
from mechlib.checker import encoding, wire
from mechlib.checker.encoding import Unreadable, encode
from mechlib.checker.observe import MAX_PRINTED, Outcome
from mechlib.checker.wire import ANSWER, ASK, TOKEN, Desk
from mechlib.grading.judging import Judge
from mechlib.grading.run import Run

NORMS, INDEX = "superposition.feature_norms", "superposition.superposition_index"
SEED = 11


@pytest.fixture(scope="module")
def judge():
    return Judge([NORMS, INDEX], SEED)


@pytest.fixture
def open_desk(judge):
    """A desk with the kernel's end of its conversation."""
    ours, theirs = socket.socketpair()
    desk, kernel = Desk(Connection(ours.detach()), judge.requests()), Connection(theirs.detach())
    thread = threading.Thread(target=desk.serve)
    thread.start()

    def finish():
        kernel.close()
        thread.join()
        run = Run(outcomes=desk.outcomes, borrowed=sorted(desk.borrowed), forged=desk.forged)
        reports = {name: judge.report(name, run) for name in judge.exercises}
        return {name: report and report.earned for name, report in reports.items()}

    yield desk, kernel, finish
    kernel.close()
    thread.join()


def norms(W):
    return W.norm(dim=1)


def ask(kernel, name):
    turn = os.urandom(TOKEN)
    kernel.send_bytes(ASK + turn + name.encode())
    return turn, kernel.recv_bytes()


def right_outcome(judge, number=0):
    from mechlib.checker.observe import observe

    return observe(norms, judge.requests()[NORMS][number]).encode()


def test_an_honest_check_gets_its_points(open_desk):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    wire.deliver(exercises.get(NORMS), norms, kernel)
    assert finish() == {NORMS: 1.0, INDEX: None} and not desk.forged


def test_a_wrong_answer_gets_none_and_its_mistake_is_named(open_desk, judge):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    wire.deliver(exercises.get(NORMS), lambda W: W.norm(dim=2), kernel)
    assert finish()[NORMS] == 0
    assert judge.report(NORMS, Run(outcomes=desk.outcomes)).mistake


def test_a_borrowed_answer_gets_none(open_desk):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    wire.deliver(exercises.get(NORMS), exercises.get(NORMS).reference, kernel)
    assert finish()[NORMS] == 0 and desk.borrowed == {NORMS}


@pytest.mark.parametrize("current", ["", INDEX])
def test_no_case_before_its_check_runs(open_desk, current):
    desk, kernel, finish = open_desk
    desk.current = current
    turn, reply = ask(kernel, NORMS)
    assert reply == turn
    assert finish()[NORMS] is None


def test_no_case_twice(open_desk):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    wire.deliver(exercises.get(NORMS), lambda W: W, kernel)
    turn, reply = ask(kernel, NORMS)
    assert reply == turn
    assert finish()[NORMS] == 0


def test_an_outcome_sent_beforehand_is_a_forgery(open_desk, judge):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    kernel.send_bytes(ANSWER + b"0" * TOKEN + right_outcome(judge))
    assert finish()[NORMS] is None
    assert desk.forged == ["an outcome for a case that was not handed out"]


def test_an_outcome_sent_twice_counts_once(open_desk, judge):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    _, reply = ask(kernel, NORMS)
    nonce = reply[TOKEN : 2 * TOKEN]
    for _ in range(20):
        kernel.send_bytes(ANSWER + nonce + right_outcome(judge))
    assert finish()[NORMS] is None
    assert desk.forged == ["more than one outcome for a case"] and len(desk.outcomes[NORMS]) == 1


def test_a_late_outcome_of_a_stopped_check_counts_for_nothing(open_desk, judge):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    _, reply = ask(kernel, NORMS)
    desk.current = INDEX
    kernel.send_bytes(ANSWER + reply[TOKEN : 2 * TOKEN] + right_outcome(judge))
    turn, reply = ask(kernel, INDEX)
    assert len(reply) > 2 * TOKEN  # the next check goes on as ever
    assert finish()[NORMS] is None and not desk.forged


def test_the_same_outcome_for_every_case_earns_nothing(open_desk, judge):
    desk, kernel, finish = open_desk
    desk.current = NORMS
    turn, reply = ask(kernel, NORMS)
    while reply != turn:
        kernel.send_bytes(ANSWER + reply[TOKEN : 2 * TOKEN] + right_outcome(judge))
        reply = kernel.recv_bytes()
    assert len(desk.outcomes[NORMS]) == len(judge.cases[NORMS])
    assert finish()[NORMS] == 0


def test_more_than_an_outcome_can_have_ends_the_conversation(open_desk, monkeypatch):
    monkeypatch.setattr(wire, "LONGEST_REPLY", 1000)
    desk, kernel, finish = open_desk
    kernel.send_bytes(b"warm")  # the desk has taken the old limit for the message that it waits for
    with pytest.raises(OSError):
        for _ in range(1000):
            kernel.send_bytes(ANSWER + b"0" * 10_000)
    assert "an outcome larger than an answer can have" in desk.forged


# ---- outcomes that were made to hurt

GOOD = vars(Outcome(outputs=1.0)) | {"failure": None}


def framed(tree: bytes, rest: bytes | None = None) -> bytes:
    import safetensors.torch

    return len(tree).to_bytes(8, "little") + tree + (safetensors.torch.save({}) if rest is None else rest)


def bomb(count):
    """One tensor, named many times."""
    data = encode({"outputs": torch.zeros(1000)})
    size = int.from_bytes(data[:8], "little")
    return framed(b'{"tuple":[' + b",".join([b'{"tensor":"0"}'] * count) + b"]}", data[8 + size :])


HOSTILE = {
    "nothing": b"",
    "a few bytes": b"\x00" * 7,
    "a length beyond the end": (2**62).to_bytes(8, "little") + b"{}",
    "no JSON": framed(b"not json"),
    "no safetensors": framed(b"null", b"\xff" * 100),
    "deep": framed(b"[" * 100_000 + b"]" * 100_000),
    "deep enough": framed(b"[" * 60 + b"]" * 60),
    "wide": framed(b"[" + b"[]," * 400_000 + b"[]]"),
    "a number of many digits": framed(b"1" * 100_000),
    "a tensor that is not there": framed(b'{"tensor":"7"}'),
    "a tensor twice": bomb(2),
    "a tensor a hundred thousand times": bomb(100_000),
    "a node of another kind": framed(b'{"pickle":"gASV"}'),
    "a key too many": framed(b'{"other":"x","tensor":"0"}'),
    "a dict with a list for a key": framed(b'{"dict":[[[1],2]]}'),
    "no outcome": encode([1, 2]),
    "an outcome with a field too many": encode(GOOD | {"verdict": "pass"}),
    "an outcome with a field too few": encode({name: GOOD[name] for name in list(GOOD)[1:]}),
    "a failure of an unknown kind": encode(GOOD | {"failure": {"kind": "pass", "message": "", "line": ""}}),
    "a failure that is a string": encode(GOOD | {"failure": "raised"}),
    "devices that are numbers": encode(GOOD | {"devices": [1]}),
    "a long print": encode(GOOD | {"printed": "x" * (MAX_PRINTED + 1)}),
    "a shape that overflows": framed(
        b'{"tensor":"0"}', encode(torch.zeros(2))[-8:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_unreadable_and_quickly_so(data, judge):
    with pytest.raises(Unreadable):
        Outcome.decode(data)
    run = Run(outcomes={NORMS: [data] * len(judge.cases[NORMS])})
    assert judge.report(NORMS, run).earned == 0 and run.forged


ODD = {
    "NaN": float("nan"),
    "infinity": torch.full((3,), float("inf")),
    "a huge shape without elements": torch.zeros(2**31 - 1, 0),
    "a string": "right",
    "another dtype": torch.zeros(3, dtype=torch.complex64),
    "a float of eight bits": torch.zeros(3).to(torch.float8_e4m3fn),
    "nested": {"a": [{"b": ({"c": torch.zeros(2)},)}]},
    "another object": encoding.Other,
}


@pytest.mark.parametrize("outputs", ODD.values(), ids=ODD.keys())
def test_odd_outcomes_earn_nothing_and_break_nothing(outputs, judge):
    data = Outcome(outputs=outputs).encode()
    assert judge.report(NORMS, Run(outcomes={NORMS: [data] * len(judge.cases[NORMS])})).earned == 0
