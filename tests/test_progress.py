"""Progress where there is no terminal: a line for each step, and one for each note."""

import io
import re
from datetime import timedelta

import pytest
from rich.console import Console

import headswap.progress
from headswap.progress import progress


def lines(capsys, *messages):
    with progress("epoch", 3) as on_progress:
        for message in messages:
            on_progress("tiny", message)
    return capsys.readouterr().out.splitlines()


def test_a_note_before_the_first_step_is_printed_and_counts_as_no_step(capsys):
    first, second = lines(capsys, {"done": 0, "note": "starts [again]"}, {"loss": 0.5})
    assert first == "tiny: starts [again]"
    assert second.startswith("tiny: epoch 1/3  loss 0.5000")


def test_steps_are_counted_from_where_the_task_started(capsys):
    first, second = lines(capsys, {"done": 2, "loss": 0.5}, {"loss": 0.25})
    assert first == "tiny: epoch 2/3  loss 0.5000"
    assert second == "tiny: epoch 3/3  loss 0.2500"


def test_of_a_queue_the_whole_is_reported_when_a_task_ends(capsys):
    with progress("epoch", {"one": 1, "two": 2}) as on_progress:
        on_progress("one", {"loss": 0.5})
        on_progress("two", {"loss": 0.5})
        on_progress("two", {"loss": 0.25})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("one: epoch 1/1  loss 0.5000  (1/2 runs  about 0:0")
    assert "runs" not in second and "(2/2 runs" in third


@pytest.mark.parametrize(
    ("seconds", "steps_left"), [(None, 100), ({"short": 0}, 1), ({"one": 2, "short": 0}, 0.5)]
)
def test_what_is_left_of_a_queue_counts_how_long_its_steps_take(
    monkeypatch, capsys, seconds, steps_left
):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(headswap.progress.time, "monotonic", lambda: next(clock))
    with progress("epoch", {"one": 1, "two": 1, "short": 99}, seconds) as on_progress:
        on_progress("one", {"loss": 0.5})
    elapsed = next(clock) - 60  # when the time left was computed
    left = timedelta(seconds=round(elapsed * steps_left))
    assert f"(1/3 runs  about {left} left)" in capsys.readouterr().out


def test_a_share_of_a_step_is_no_line_and_no_step(capsys):
    found = lines(capsys, {"done": 1, "share": 0.5}, {"done": 2, "loss": 0.5}, {"loss": 0.25})
    assert [line.split("  ")[0] for line in found] == ["tiny: epoch 2/3", "tiny: epoch 3/3"]


def test_on_80_columns_a_bar_shows_steps_time_left_and_validation_accuracy(monkeypatch):
    output = io.StringIO()
    terminal = Console(file=output, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(headswap.progress, "console", terminal)
    with progress("epoch", 15) as on_progress:
        name = "resnet18-finetune seed 0"
        on_progress(name, {"done": 0, "share": 0.0})
        on_progress(name, {"done": 3, "validation accuracy": 0.95, "loss": 0.5})
        on_progress(name, {"done": 3, "share": 0.4})
    shown = output.getvalue().split("\x1b[2K")[-1].splitlines()[0]
    assert name in shown and "3/15" in shown and "left" in shown
    assert "validation accuracy 0.9" in shown and len(shown) <= 80


def test_parts_of_steps_add_up_to_lines(capsys):
    found = lines(capsys, {"by": 0}, *[{"by": 0.1}] * 30)
    assert [line.split("  ")[0] for line in found] == [
        f"tiny: epoch {step}/3" for step in (1, 2, 3)
    ]


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_a_terminal_that_draws_no_bars_gets_lines_and_none_gets_colours(monkeypatch, variable):
    output = io.StringIO()
    terminal = Console(file=output, force_terminal=True, width=80, _environ=variable)
    monkeypatch.setattr(headswap.progress, "console", terminal)
    with progress("epoch", 3) as on_progress:
        on_progress("tiny", {"loss": 0.5})
    text = output.getvalue()
    if variable["TERM"] == "dumb":
        assert text == "tiny: epoch 1/3  loss 0.5000\n"
    assert "1/3" in text and not re.search(r"\x1b\[[\d;]*\b[349]\d", text)
