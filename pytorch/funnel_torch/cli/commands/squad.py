"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

    {program} --do_train --do_predict --train_file=train-v2.0.json \\
        --predict_file=dev-v2.0.json --model_dir=EXP --init_ckpt=CKPT \\
        --tokenizer_path=CKPT/vocab.uncased.txt --train_bsz=48 --lr=3e-5 --train_steps=8000 \\
        --warmup_steps=1000 --lr_layer_decay_rate=0.75
    {program} --do_predict --predict_file=dev-v2.0.json --model_dir=EXP
    {program} --do_ensemble --ensemble_ckpts=EXP1/best,EXP2/best \\
        --predict_file=dev-v2.0.json --ensemble_output_file=predictions.json --search_threshold
    {program} --prepro_split=train --train_file=train-v2.0.json --output_dir=PROC \\
        --tokenizer_path=CKPT/vocab.uncased.txt                  # then pass --output_dir above
    torchrun --nproc_per_node=8 {script} ...             # --train_bsz counts per process

Answers go to predictions.json, nbest_predictions.json and null_odds.json in --predict_dir (default
model_dir), metrics to final_scores.json there. A killed run continues when the same command is
given again.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel_torch.cli.settings.squad import SquadSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(SquadSettings, __doc__, argv)
    from funnel_torch.cli.squad import run  # imports PyTorch, which --help does not need

    run(settings)


command = entry_point(main, preemptible=True)
