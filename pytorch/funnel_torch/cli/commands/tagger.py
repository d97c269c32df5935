"""Fine-tune, evaluate and predict the tags of words: named entities, parts of speech.

One device, from a pretrained checkpoint with a decoder; then eight GPUs with the same flags:

    {program} --dataset=conll --data_dir=conll2003 --model_dir=EXP \\
        --init_ckpt=ckpts/B4-4-4H768-ELEC-TF --lr=5e-5 --epochs=5 --write_prediction
    torchrun --nproc_per_node=8 {script} ...

--data_dir holds train, dev and, for predictions, test, as .conll, .txt or .jsonl. A killed run
continues when the same command is given again; --test_only evaluates the model in model_dir.
docs/token_classification.md describes files, scores and predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.tagger import TaggerSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(TaggerSettings, __doc__, argv)
    from funnel_torch.cli.tagger import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main, preemptible=True)
