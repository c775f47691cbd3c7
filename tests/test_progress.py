"""Progress where there is no terminal: a line for each step, and one for each note."""

import io
import re
from datetime import timedelta

import pytest
from rich.console import Console

import headswap.progress
from headswap.progress import progress

LOSS = {"loss": 0.5}


def lines(capsys, *messages):
    with progress("epoch", 3) as on_progress:
        for message in messages:
            on_progress("tiny", *message)
    return capsys.readouterr().out.splitlines()


def test_a_note_before_the_first_step_is_printed_and_counts_as_no_step(capsys):
    first, second = lines(capsys, (None, None, "starts [again]"), (1, LOSS))
    assert first == "tiny: starts [again]"
    assert second == "tiny: epoch 1/3  loss 0.5000"


def test_what_was_done_before_is_no_step_and_shares_are_none(capsys):
    found = lines(capsys, (1,), (1.5,), (2, LOSS), (2.5,), (3, {"loss": 0.25}))
    assert [re.sub("  0:.*", "", line) for line in found] == [
        "tiny: epoch 2/3  loss 0.5000",
        "tiny: epoch 3/3  loss 0.2500",
    ]


def test_steps_without_figures_are_lines_too(capsys):
    found = lines(capsys, *[(step / 10,) for step in range(31)])
    assert [line.split("  ")[0] for line in found] == [
        f"tiny: epoch {step}/3" for step in (1, 2, 3)
    ]


def test_of_a_queue_the_whole_is_reported_when_a_task_ends(capsys):
    with progress("epoch", {"one": 1, "two": 2}) as on_progress:
        on_progress("one", 0)
        on_progress("one", 1, LOSS)
        on_progress("two", 1, LOSS)
        on_progress("two", 2, LOSS)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("one: epoch 1/1  loss 0.5000  (1/2 runs  about 0:0")
    assert "runs" not in second and third.endswith("(2/2 runs)")


@pytest.mark.parametrize(
    ("seconds", "minutes_left"), [(None, 100), ({"short": 0}, 1), ({"one": 2, "short": 0}, 0.5)]
)
def test_what_is_left_of_a_queue_counts_how_long_its_steps_take(
    monkeypatch, capsys, seconds, minutes_left
):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(headswap.progress.time, "monotonic", lambda: next(clock))
    with progress("epoch", {"one": 1, "two": 1, "short": 99}, seconds) as on_progress:
        on_progress("one", 0)
        on_progress("one", 1, LOSS)
    left = timedelta(minutes=minutes_left)
    assert f"(1/3 runs  about {left} left)" in capsys.readouterr().out


def test_on_80_columns_a_bar_shows_steps_time_left_and_accuracy(monkeypatch):
    output = io.StringIO()
    terminal = Console(file=output, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(headswap.progress, "console", terminal)
    with progress("epoch", 15) as on_progress:
        name = "efficientnet_lite0-finetune seed 0"
        on_progress(name, 0.0)
        on_progress(name, 3, {"validation accuracy": 0.95, "loss": 0.5})
        on_progress(name, 3.4)
    shown = output.getvalue().split("\x1b[2K")[-1].splitlines()[0]
    assert name in shown and "3/15" in shown and "left" in shown
    assert "accuracy 0.9500" in shown and len(shown) <= 80


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_that_draws_no_bars_gets_lines_and_none_gets_colours(monkeypatch, variable):
    output = io.StringIO()
    terminal = Console(file=output, force_terminal=True, width=80, _environ=variable)
    monkeypatch.setattr(headswap.progress, "console", terminal)
    with progress("epoch", 3) as on_progress:
        on_progress("tiny", 1, LOSS)
    text = output.getvalue()
    if variable["TERM"] == "dumb":
        assert text == "tiny: epoch 1/3  loss 0.5000\n"
    assert "1/3" in text and not re.search(r"\x1b\[[\d;]*\b[349]\d", text)
