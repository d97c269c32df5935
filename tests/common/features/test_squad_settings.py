"""Settings of squad.py, and ensembles scored with them."""

import pytest

from funnel.cli.squad import SquadWork, build_source, check_squad_numbers, list_checkpoints
from funnel.config.heads import AnswerConfig
from funnel.config.squad import AnswerSettings, EnsembleSettings, SquadFiles, WindowConfig
from funnel.features.squad import build_windows
from funnel.features.squad_predictions import SquadAnswers
from funnel.features.squad_scoring import SquadScorer, score_ensemble
from funnel.utils.errors import ConfigError, DataError
from squad_cases import WordTokenizer, squad_data

ALONE = EnsembleSettings()
TOGETHER = EnsembleSettings(do_ensemble=True, ensemble_ckpts=" a, ,b/c ")


@pytest.mark.parametrize(
    ("settings", "ensemble", "expected"),
    [
        ({"do_train": True}, ALONE, ["train_file"]),
        ({"do_train": True, "do_predict": True}, ALONE, ["train_file", "predict_file"]),
        ({"prepro_split": "eval", "do_train": True}, ALONE, ["predict_file"]),
        ({}, TOGETHER, ["ensemble_ckpts", "predict_file", "ensemble_output_file"]),
    ],
)
def test_required_flags(settings, ensemble, expected):
    assert list(SquadWork(**settings).required_flags(SquadFiles(), ensemble)) == expected


def test_work_that_is_missing_or_contradictory():
    with pytest.raises(ConfigError, match="nothing to do"):
        SquadWork().required_flags(SquadFiles(), ALONE)
    with pytest.raises(ConfigError, match="--do_ensemble goes without"):
        SquadWork(do_predict=True).required_flags(SquadFiles(), TOGETHER)


def test_wrong_values():
    with pytest.raises(ConfigError, match="--num_proc=0: must be at least 1"):
        check_squad_numbers(AnswerConfig(), AnswerSettings(), 0)
    with pytest.raises(ConfigError, match="--n_best_size=0"):
        check_squad_numbers(AnswerConfig(), AnswerSettings(n_best_size=0), 1)
    with pytest.raises(ConfigError, match="--prepro_split=dev: should be train or eval"):
        SquadWork(prepro_split="dev").required_flags(SquadFiles(), ALONE)


def test_sources_and_target():
    files, windows = SquadFiles("t", "p", eval_version="v1"), WindowConfig(100, 10, 5)
    train, dev = (
        build_source(files, split, windows, debug_mode=True) for split in ("train", "eval")
    )
    assert (train.path, train.version, train.limit, train.overwrite) == ("t", "v2", 100, False)
    assert (dev.path, dev.version, dev.windows) == ("p", "v1", windows)
    assert files.target == "f1" and SquadFiles().target == "best_f1"


def test_checkpoints_of_an_ensemble():
    assert list_checkpoints(TOGETHER) == ("a", "b/c")
    with pytest.raises(ConfigError, match="--ensemble_ckpts= , : names no checkpoint"):
        list_checkpoints(EnsembleSettings(ensemble_ckpts=" , "))


def _scorer(version, golds):
    data = squad_data(("x y", ("a", "q", golds), ("b", "q", None if golds is None else ["y"])))
    windows = build_windows(data, WordTokenizer())
    target = "f1" if version == "v1" else "best_f1"
    return SquadScorer(data, windows, AnswerSettings(), version, target)


def test_an_ensemble_applies_the_threshold_of_version_2():
    nbest = {name: [{"text": name, "probability": 1.0}] for name in "ab"}
    member = SquadAnswers({"a": "a", "b": "b"}, nbest, {"a": -1.0, "b": 2.0})
    result = score_ensemble(_scorer("v2", None), [member], EnsembleSettings())
    assert result == ({"a": "a", "b": ""}, {})
    result = score_ensemble(_scorer("v2", None), [member], EnsembleSettings(na_threshold=-2.0))
    assert result.predictions == {"a": "", "b": ""}
    search = EnsembleSettings(search_threshold=True)
    with pytest.raises(DataError, match="no answers to search the threshold by"):
        score_ensemble(_scorer("v2", None), [member], search)
    # No threshold gives a point for "b"; "a" is unanswerable, so the lowest threshold is best.
    result = score_ensemble(_scorer("v2", []), [member], search)
    assert result.predictions == {"a": "", "b": ""} and result.scores["best_f1"] == 50.0
    result = score_ensemble(_scorer("v1", ["x"]), [member], search)
    assert result.predictions == {"a": "a", "b": "b"} and result.scores["f1"] == 0.0
