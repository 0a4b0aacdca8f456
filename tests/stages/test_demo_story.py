"""What the story finds is judged: an inexact delivery or a weak model makes the demo fail and say so."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from chunkstore.stages.demo import story, training
from chunkstore.stages.demo.place import Place
from chunkstore.stages.demo.screen import Screen
from chunkstore.stages.demo.table import Findings


class Loaded:
    """Stands for a loader of 100 samples in 10 steps."""

    dataset = range(100)

    def __len__(self):
        return 10


class Delivered:
    """Stands for two processes that delivered what they are told to have."""

    folder = Path("nowhere")

    def __init__(self, ranks):
        self._ranks = ranks

    def run(self, job_line):
        yield from ()

    def delivered(self):
        return self._ranks


def resumed(monkeypatch, *, after=range(60, 100), accuracy=0.99):
    """The findings of a resumption after 60 of 100 samples."""
    monkeypatch.setattr(training, "load_checkpoint", lambda *arguments: None)
    monkeypatch.setattr(training, "test_accuracy", lambda *arguments: accuracy)
    whole = {epoch: list(range(100)) for epoch in range(training.EPOCHS) if epoch != story.STOP_EPOCH}
    early = {epoch: numbers for epoch, numbers in whole.items() if epoch < story.STOP_EPOCH}
    late = {epoch: numbers for epoch, numbers in whole.items() if epoch > story.STOP_EPOCH}
    before = training.Training(None, None, Loaded(), {**early, story.STOP_EPOCH: list(range(60))})
    numbers = list(after)
    ranks = [{**late, story.STOP_EPOCH: numbers[::2]}, {story.STOP_EPOCH: numbers[1::2]}]
    findings = Findings()
    screen = Screen(Console(file=io.StringIO(), width=80))
    place = Place("nowhere", None, Path("nowhere"), None, "local disk")
    story.resume(screen, place, Delivered(ranks), before, findings)
    return findings


def test_an_exact_resumption_of_a_good_model_has_no_failures(monkeypatch):
    findings = resumed(monkeypatch)
    assert findings.failures == []
    assert findings.shares == (60, 20, 20)


@pytest.mark.parametrize("after", [range(59, 100), range(61, 100), range(60, 101), [60, *range(60, 99)]])
def test_a_sample_too_many_or_too_few_is_a_failure(monkeypatch, after):
    assert resumed(monkeypatch, after=after).failures == ["every sample exactly once an epoch"]


def test_an_accuracy_below_95_percent_is_a_failure(monkeypatch):
    assert resumed(monkeypatch, accuracy=0.9499).failures == ["an accuracy of 95%"]
