"""Progress where there is no terminal: a line for each step, and one for each note."""

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


def test_of_a_queue_the_whole_is_told_when_a_task_ends(capsys):
    with progress("epoch", {"one": 1, "two": 2}) as on_progress:
        on_progress("one", {"loss": 0.5})
        on_progress("two", {"loss": 0.5})
        on_progress("two", {"loss": 0.25})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("one: epoch 1/1  loss 0.5000  (1/2 runs  about 0:0")
    assert "runs" not in second and "(2/2 runs" in third
