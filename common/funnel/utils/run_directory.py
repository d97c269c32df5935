"""The directory of a training run: which run it belongs to, and the record of its settings.

    run_config.json    settings, seed and command line, written before the first step
    progress.json      how far the run came and whether it is finished
    best_result.json   scores of the best model
    .run.lock          names the process that writes here at the moment

The backends add their checkpoints in subclasses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from funnel.utils.errors import RunError
from funnel.utils.files import atomic_write_json
from funnel.utils.json_files import read_json_object

RUN_CONFIG = "run_config.json"
PROGRESS = "progress.json"
BEST_RESULT = "best_result.json"

# Files by which a directory is known to hold a run: ours, TensorFlow's state, the original's.
_TRACES = (RUN_CONFIG, BEST_RESULT, "best", "last", "checkpoint", "var.pt")
# Settings that older runs recorded under another name.
_RENAMED_SETTINGS = {"shuffle_window": "shuffle_buffer"}
# Settings that older runs did not record in every program: they are compared where they are.
_ADDED_SETTINGS = ("vocabulary", "weights", "model_config")


def is_inside(checkpoint: str | Path, folder: str | Path) -> bool:
    """Return whether a checkpoint is a directory, or in it at any depth."""
    place, source = Path(folder).resolve(), Path(checkpoint).resolve()
    return place in (source, *source.parents)


def refuse_foreign_results(folder: str | Path, checkpoint: str | Path, flag: str) -> None:
    """Check that results of ``checkpoint`` do not replace those of another run.

    Args:
        folder: directory the results will be written to.
        checkpoint: the evaluated model; a run may write into the directory that holds its model.
        flag: flag that names ``folder``.

    Raises:
        RunError: ``folder`` holds a run, and ``checkpoint`` is not of that run.
    """
    holds_run = any((Path(folder) / name).exists() for name in _TRACES)
    if holds_run and not is_inside(checkpoint, folder):
        raise RunError(
            f"{folder}: holds another run, whose results those of {checkpoint} would replace; "
            f"choose another {flag}"
        )


class BaseRunDirectory:
    """Directory of a run with given settings. The constructor only reads; subclasses write.

    A directory belongs to the run whose settings are recorded in it. The same run may resume
    there; any other must overwrite it or choose another directory.

    Subclasses set:
        overwrite_flag: command-line flag that deletes the run in the directory.
        evaluate_flag: command-line flag that evaluates a finished run again.
        own_files: glob patterns of everything that a run writes, which overwriting deletes.

    Args:
        path: the directory; it need not exist.
        settings: everything that affects the result of the run, as JSON values.
        overwrite: delete the run in the directory, on the first write.

    Raises:
        RunError: ``path`` is a file.
    """

    overwrite_flag: ClassVar[str]
    evaluate_flag: ClassVar[str]
    own_files: ClassVar[tuple[str, ...]]

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        # JSON has no tuples: compare what a later run will read.
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.overwrites = overwrite
        self._record: dict[str, Any] = {}
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; --model_dir needs a directory")

    def recorded(self, key: str) -> Any:
        """Return a value that was recorded when this run began, None if it has not begun."""
        return self._record.get(key)

    @property
    def seed(self) -> int | None:
        """The seed with which this run began, None if it has not begun."""
        return self.recorded("seed")

    def _load_record(self) -> None:
        """Read the record of the run in the directory, which must be this run.

        Raises:
            RunError: it is another run, or its record is corrupt.
        """
        record = read_json_object(self.path / RUN_CONFIG, RunError)
        recorded = record.get("settings", {})
        if not isinstance(recorded, dict):
            raise RunError(
                f"{self.path / RUN_CONFIG}: settings: must be an object, not {recorded!r}"
            )
        settings: dict[str, Any] = recorded
        before = {_RENAMED_SETTINGS.get(key, key): value for key, value in settings.items()}
        # A setting that only one of them has counts as None: versions may add settings.
        for key in sorted({*before, *self.settings}):
            old, new = before.get(key), self.settings.get(key)
            is_unknown = key.partition(".")[0] in _ADDED_SETTINGS and key not in before
            if old != new and not is_unknown:
                raise RunError(
                    f"{self.path}: holds another run ({key} was {old!r}, now {new!r}); choose "
                    f"another --model_dir, or {self.overwrite_flag} to delete that run"
                )
        self._record = record

    def _refuse_finished(self, progress: Path) -> None:
        """Raise RunError if the file ``progress`` records the end of the run."""
        if progress.is_file() and read_json_object(progress, RunError).get("finished"):
            raise RunError(
                f"{self.path}: this run is finished; {self.evaluate_flag} evaluates it again, "
                f"{self.overwrite_flag} deletes it and starts again"
            )

    def _write_record(self, information: Mapping[str, Any]) -> bool:
        """Create the directory and record the run, unless it is resumed.

        Args:
            information: recorded, but not compared by a later run: the seed, for example.

        Returns:
            Whether the record was written.
        """
        if self.overwrites:
            self._delete_run()
        self.path.mkdir(parents=True, exist_ok=True)
        if self._record:  # a resumed run keeps the record of its beginning
            return False
        atomic_write_json(self.path / RUN_CONFIG, {"settings": self.settings, **information})
        return True

    def _delete_run(self) -> None:
        for item in (item for pattern in self.own_files for item in self.path.glob(pattern)):
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink()
