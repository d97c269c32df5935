"""Fine-tune, evaluate and predict the tags of words: named entities, parts of speech.

One device, from a pretrained checkpoint with a decoder; then eight GPUs with the same flags:

    python pytorch/tagger.py --dataset=conll --data_dir=conll2003 --model_dir=EXP \\
        --init_ckpt=ckpts/B4-4-4H768-ELEC-TF --lr=5e-5 --epochs=5 --write_prediction
    torchrun --nproc_per_node=8 pytorch/tagger.py ...

--data_dir holds train, dev and, for predictions, test, as .conll, .txt or .jsonl. A killed run
continues when the same command is given again; --test_only evaluates the model in model_dir.
docs/token_classification.md describes files, scores and predictions.
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_torch.cli.tagging.settings import TaggerSettings


def main() -> None:
    settings = parse_settings(TaggerSettings, __doc__)
    from funnel_torch.cli.tagging.program import run  # imports PyTorch, which --help does not need

    run(settings)


if __name__ == "__main__":
    run_main(main, preemptible=True)
