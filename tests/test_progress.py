"""Progress where there is no terminal: a line for each step, and one for each note."""

from headswap.progress import progress


def lines(capsys, *messages):
    with progress(3, "epoch") as on_progress:
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
