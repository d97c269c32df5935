"""The rules of run directories that both backends share."""

import json

import pytest

from funnel.utils.errors import RunError
from funnel.utils.run_directory import PROGRESS, RUN_CONFIG, BaseRunDirectory


class Directory(BaseRunDirectory):
    overwrite_flag, evaluate_flag = "--overwrite", "--evaluate"
    own_files = (RUN_CONFIG, PROGRESS, "model-*")

    def begin(self):
        if (self.path / RUN_CONFIG).is_file() and not self.overwrites:
            self._load_record()
            self._refuse_finished(self.path / PROGRESS)
        return self._write_record({"seed": 7})


def test_the_record_is_written_once_and_compared(tmp_path):
    path = tmp_path / "new" / "run"
    first = Directory(path, {"lr": 1, "steps": (1, 2)})
    assert not path.exists() and first.seed is None
    assert first.begin()
    assert json.loads((path / RUN_CONFIG).read_text()) == {
        "settings": {"lr": 1, "steps": [1, 2]},
        "seed": 7,
    }
    again = Directory(path, {"lr": 1, "steps": (1, 2)})
    assert not again.begin()
    assert (again.seed, again.recorded("other")) == (7, None)
    with pytest.raises(RunError, match=r"run: holds another run \(new was None, now 3\); choose"):
        Directory(path, {"lr": 1, "steps": (1, 2), "new": 3}).begin()


def test_a_record_whose_settings_are_no_object(tmp_path):
    (tmp_path / RUN_CONFIG).write_text('{"settings": []}')
    with pytest.raises(RunError, match=r"run_config.json: settings: must be an object, not \[\]"):
        Directory(tmp_path, {}).begin()


def test_a_finished_run_is_refused_with_both_ways_out(tmp_path):
    Directory(tmp_path, {}).begin()
    (tmp_path / PROGRESS).write_text('{"finished": true}')
    with pytest.raises(RunError, match=r"finished; --evaluate evaluates.* --overwrite deletes"):
        Directory(tmp_path, {}).begin()


def test_overwriting_deletes_own_files_only_and_late(tmp_path):
    Directory(tmp_path, {}).begin()
    (tmp_path / "model-1").mkdir()
    (tmp_path / "model-1" / "weights").touch()
    (tmp_path / "notes.md").touch()
    directory = Directory(tmp_path, {"lr": 2}, overwrite=True)
    assert (tmp_path / "model-1").exists()
    assert directory.begin()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["notes.md", RUN_CONFIG]


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file; --model_dir needs a directory"):
        Directory(tmp_path / "file", {})
