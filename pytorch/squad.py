"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

    python pytorch/squad.py --do_train --do_predict --train_file=train-v2.0.json \\
        --predict_file=dev-v2.0.json --model_dir=EXP --init_ckpt=CKPT \\
        --tokenizer_path=CKPT/vocab.uncased.txt --train_bsz=48 --lr=3e-5 --train_steps=8000 \\
        --warmup_steps=1000 --lr_layer_decay_rate=0.75
    python pytorch/squad.py --do_predict --predict_file=dev-v2.0.json --model_dir=EXP
    python pytorch/squad.py --do_ensemble --ensemble_ckpts=EXP1/best,EXP2/best \\
        --predict_file=dev-v2.0.json --ensemble_output_file=predictions.json --search_threshold
    python pytorch/squad.py --prepro_split=train --train_file=train-v2.0.json --output_dir=PROC \
        --tokenizer_path=CKPT/vocab.uncased.txt                  # then pass --output_dir above
    torchrun --nproc_per_node=8 pytorch/squad.py ...             # --train_bsz counts per process

Answers go to predictions.json, nbest_predictions.json and null_odds.json in --predict_dir (default
model_dir), metrics to final_scores.json there. A killed run continues when the same command is
given again.
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_torch.cli.squad_settings import SquadSettings


def main() -> None:
    settings = parse_settings(SquadSettings, __doc__)
    from funnel_torch.cli.squad import run  # imports PyTorch, which --help does not need

    run(settings)


if __name__ == "__main__":
    run_main(main, preemptible=True)
