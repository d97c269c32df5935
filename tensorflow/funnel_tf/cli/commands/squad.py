r"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

    {program} --prepro_split=train --train_file=train-v2.0.json --output_dir=PROC \
        --tokenizer_path=CKPT/vocab.uncased.txt          # optional: training does it if needed
    {program} --use_tpu=False --do_train=True --do_predict=True \
        --train_file=train-v2.0.json --predict_file=dev-v2.0.json --output_dir=PROC \
        --model_dir=EXP --init_checkpoint=CKPT/model.ckpt --model_config=CKPT/net_config.json \
        --tokenizer_path=CKPT/vocab.uncased.txt --train_batch_size=48 --learning_rate=3e-5 \
        --lr_layer_decay_rate=0.75 --train_steps=8000 --warmup_steps=1000 --save_steps=1000
    {program} --do_ensemble=True --ensemble_ckpts=EXP1/latest,EXP2/latest \
        --predict_file=dev-v2.0.json --output_dir=PROC --ensemble_output_file=predictions.json

All checkpoints are scored; the answers of the best one are written to predictions.json,
nbest_predictions.json and null_odds.json in --predict_dir (default model_dir). --train_version=v1
with --eval_version=v1 is SQuAD 1.1. A killed run is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel_tf.cli.start import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    run_program("squad", __doc__, argv)


command = entry_point(main, preemptible=True)
