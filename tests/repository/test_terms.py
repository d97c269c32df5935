"""The field's terms: words that this project once used in their place do not come back."""

import re

import pytest

from repo_layout import ROOT, name, python_files

# Old identifiers, each with the term that replaced it.
IDENTIFIERS = {
    "World": "DistributedContext",
    "in_first": "on_rank_zero",
    "first_then_rest": "rank_zero_first",
    "without_exchange": "no_sync",
    "Claim": "RunContext",
    "granted": "run_context",
    "ModelPlan": "ModelFactory",
    "StartConfig": "InitConfig",
    "starting_point": "initial_model",
    "Waves": "Sinusoids",
    "unfilled": "skip_init",
    "split_like": "distribute_like",
    "LossTotals": "LossDenominators",
    "_score_judgements": "_discriminator_loss",
    "Draws": "MaskingRandoms",
    "Places": "RecordLocations",
    "deciding_settings": "result_affecting_config",
    "_NEUTRAL": "RUNTIME_FLAGS",
    "settle_directory": "recover_swap",
    "claim_folder": "check_manifest",
    "filler": "padding_example",
    "contestants": "baselines",
    "measuring": "timing",
    "special_symbols": "special_tokens",
    "sentence_piece": "sentencepiece",
}
# Words that stand for a plainer one: "next to" or "with", "again", "fix", "corrupt".
MANNERED = ("beside", "anew", "mend", "mended", "damaged")
# Where old spellings are accepted on purpose, or are data.
EXEMPT = {"tests/repository/test_terms.py"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("*/*/*.md")])
DOCUMENTS = [path for path in DOCUMENTS if ".venv" not in path.parts]


@pytest.mark.parametrize("path", [*python_files(), *DOCUMENTS], ids=name)
def test_old_terms_are_gone(path):
    if name(path) in EXEMPT:
        return
    text = path.read_text(encoding="utf-8")
    found = {old: new for old, new in IDENTIFIERS.items() if re.search(rf"\b{old}\b", text)}
    # The name of the published model's task flag, and a file name of the original.
    assert not found, f"{name(path)}: {found}"
    lines = enumerate(text.splitlines(), 1)
    words = [(n, w) for n, line in lines for w in MANNERED if re.search(rf"\b{w}\b", line)]
    assert not words, f"{name(path)}: {words}"


@pytest.mark.parametrize("path", python_files(), ids=name)
def test_functions_are_verbs(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"def (\w+_of)\(", text), f"{name(path)}: start with a verb"
