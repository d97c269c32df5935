r"""Fine-tune and evaluate on RACE: four options per question, one of them correct.

    {program} --use_tpu=False --do_train=True --do_eval=True --data_dir=RACE \
        --output_dir=PROC --model_dir=EXP --init_checkpoint=CKPT/model.ckpt \
        --model_config=CKPT/net_config.json --tokenizer_path=CKPT/vocab.uncased.txt \
        --train_batch_size=16 --learning_rate=2e-5 --train_steps=24000 --warmup_steps=2400 \
        --save_steps=2400
    {program} --do_eval=True --eval_split=test --model_dir=EXP ...

--data_dir holds {train,dev,test}/{middle,high}/*.txt. All checkpoints are evaluated, the best and
the last are kept. A killed run is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel_tf.cli.start import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    run_program("race", __doc__, argv)


command = entry_point(main, preemptible=True)
