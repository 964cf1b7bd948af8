"""On a Dask cluster a class gets the grades that it gets here, also when a machine of the cluster dies."""

import os
import pickle
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import gradable
import nbformat
import psutil
import pytest
from gradable import CHAPTER, DIMENSIONS, MODEL, NORMS

from mechlib.grading import demo, grade, remote
from mechlib.grading.judging import Judge
from mechlib.grading.limits import Limits
from mechlib.grading.release import chapter_path

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

SEED = 20406080
LIMITS = Limits(cell=10)


@pytest.fixture
def cluster():
    """A scheduler and two workers, on the loopback."""
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.fixture
def sandbox():
    return gradable.sandbox()


def hand_in(course):
    gradable.hand_in(course, "all-right")
    gradable.hand_in(course, "wrong", demo.in_answer(MODEL, "ToyModel.forward = lambda self, x: x"))
    gradable.hand_in(course, "borrowed", demo.in_answer(NORMS, f"feature_norms = borrow('{NORMS}')"))
    gradable.hand_in(course, "ends-python", demo.in_answer(DIMENSIONS, "__import__('os')._exit(1)"))
    gradable.hand_in(course, "half", answered={NORMS})
    return course


def run(course, sandbox, **options):
    return grade.grade(course, CHAPTER, grade.Options(LIMITS, SEED, sandbox=sandbox, **options))


def kill_a_worker(client, killed: list[int]) -> None:
    """Kill one that has been at work for a moment, with everything that it has started."""
    while not killed:
        for address, tasks in client.processing().items():
            if tasks and not killed:
                killed.append(client.run(os.getpid, workers=[address])[address])
                psutil.Process(killed[0]).kill()
        time.sleep(0.1)


def test_the_same_grades_although_a_worker_dies(cluster, sandbox, tmp_path, monkeypatch):
    gradable.share_server(monkeypatch)
    here = run(hand_in(tmp_path / "here"), sandbox)
    killed: list[int] = []
    with distributed.Client(cluster, set_as_default=False) as client:
        thread = threading.Thread(target=kill_a_worker, args=[client, killed])
        thread.start()
        there = run(hand_in(tmp_path / "there"), sandbox, dask=cluster.scheduler_address)
        thread.join()
    assert killed
    assert [(row.student, row.status, row.scores, row.verdicts, row.mistakes) for row in there] == [
        (row.student, row.status, row.scores, row.verdicts, row.mistakes) for row in here
    ]
    assert [row.score for row in there] == [5, 4, 4, 1, 3] and len({row.status for row in there}) >= 3


def test_what_goes_to_the_cluster_has_no_seed_and_no_verdict(sandbox, tmp_path, monkeypatch):
    sent: list[bytes] = []

    class Cluster:
        """Runs a task here, from what would cross the network."""

        def submit(self, task, *arguments, **options):
            sent.append(pickle.dumps(arguments))
            result = pickle.loads(pickle.dumps(task(*pickle.loads(sent[0]))))
            return SimpleNamespace(result=lambda: result)

    notebook = nbformat.read(gradable.hand_in(tmp_path, "ann"), as_version=4)
    release = nbformat.read(chapter_path(tmp_path, CHAPTER), as_version=4)
    monkeypatch.setattr(remote, "connected", lambda address: nullcontext(Cluster()))
    monkeypatch.setattr(remote, "server_for", lambda release: gradable.server())
    judge = Judge([NORMS, MODEL, DIMENSIONS], SEED)
    run = remote.observe_there("", notebook, release, judge.requests(), LIMITS, sandbox)
    assert str(SEED).encode() not in sent[0] and pickle.dumps(SEED)[3:-1] not in sent[0]
    assert str(tmp_path).encode() not in sent[0]
    assert judge.settle(notebook, run).earned == {NORMS: 1, MODEL: 3, DIMENSIONS: 1}


def test_another_version_of_mechlib_is_refused():
    with pytest.raises(RuntimeError, match="another version"):
        remote.observe_here("", "", {}, {}, "none", "another")


def test_no_cluster_is_said_in_one_sentence(tmp_path, monkeypatch, capsys):
    gradable.share_server(monkeypatch)
    course = tmp_path / "course"
    gradable.hand_in(course, "ann")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert grade.main([CHAPTER, "--course", str(course), "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "the Dask cluster at tcp://127.0.0.1:1 does not do its work" in capsys.readouterr().err
