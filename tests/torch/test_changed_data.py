"""Runs of fine-tuning that are resumed after their training data has changed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.utils.errors import RunError
from funnel_torch.data.batching import BatchConfig
from funnel_torch.tasks.config import FineTuneConfig
from funnel_torch.tasks.finetune import fine_tune
from funnel_torch.training.run_directory import TRAINING_STATE, RunDirectory
from funnel_torch.training.trainer import RunOutput
from trainer_cases import ALONE, Line, ListLog, Points, StateSaver, directory_output

torch.set_num_threads(1)


class SizedPoints(Points):
    def __init__(self, count, longest=9):
        super().__init__(count)
        self.lengths = 1 + np.arange(count) % longest


class Killed(BaseException):
    pass


class SavesOnce(StateSaver):
    """Ends the run where it saves for the second time."""

    saves = 0

    def save(self, folder):
        self.saves += 1
        if self.saves == 2:
            raise Killed
        super().save(folder)


def settings(**changes):
    return FineTuneConfig(batches=BatchConfig(4), epochs=3, save_steps=4, lr=0.01, **changes)


def start(path, source, ends=False):
    """Train on 20 examples in steps of 4: 15 steps, of which 4 are saved unless it ends."""
    model = Line()
    output = directory_output(path, model)
    if ends:
        fine_tune(model, source, [], settings(), ALONE, output)
        return
    with pytest.raises(Killed):
        output = RunOutput(output.directory, ListLog(), SavesOnce(model))
        fine_tune(model, source, [], settings(), ALONE, output)


def resume(path, source, **changes):
    model = Line()
    directory = RunDirectory(path, {"a": 1}, resume=True)
    output = RunOutput(directory, ListLog(), StateSaver(model))
    return fine_tune(model, source, [], settings(**changes), ALONE, output, resume=True).step


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (SizedPoints(33), "33 examples, not 20"),  # more steps than the run had
        (SizedPoints(12), "12 examples, not 20"),  # fewer: not an extension, either
        (SizedPoints(19), "19 examples, not 20"),  # as many steps
        (SizedPoints(20, longest=8), "as many examples, but others"),
    ],
)
def test_an_interrupted_run_needs_its_data(tmp_path, source, told):
    start(tmp_path / "run", SizedPoints(20))
    with pytest.raises(RunError, match=f"training data has changed .*{told}.*--init_ckpt"):
        resume(tmp_path / "run", source)
    assert resume(tmp_path / "run", SizedPoints(20)) == 15


def test_a_finished_run_is_evaluated_again_but_not_extended(tmp_path):
    start(tmp_path / "run", SizedPoints(20), ends=True)
    assert resume(tmp_path / "run", SizedPoints(19)) == 15
    with pytest.raises(RunError, match="training data has changed"):
        resume(tmp_path / "run", SizedPoints(19), extend_to=4)
    assert resume(tmp_path / "run", SizedPoints(20), extend_to=4) == 20


def test_a_checkpoint_of_an_older_version_says_nothing_of_its_data(tmp_path):
    start(tmp_path / "run", SizedPoints(20))
    path = tmp_path / "run" / "last" / TRAINING_STATE
    state = torch.load(path, weights_only=True)
    assert state.pop("data")["examples"] == 20
    torch.save(state, path)
    assert resume(tmp_path / "run", SizedPoints(19)) == 15
