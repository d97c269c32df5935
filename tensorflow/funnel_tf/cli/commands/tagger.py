r"""Fine-tune, evaluate and predict the tags of words: named entities, parts of speech.

    {program} --do_train=True --do_eval=True --do_predict=True \
        --task_name=conll --data_dir=conll2003 --output_dir=PROC --model_dir=EXP \
        --init_checkpoint=CKPT/model.ckpt --model_config=CKPT/net_config.json \
        --train_batch_size=16 --learning_rate=5e-5 --train_steps=4400 --warmup_steps=440 \
        --save_steps=440

--data_dir holds train, dev and test, as .conll, .txt or .jsonl. A killed run is resumed by the same
command. docs/token_classification.md describes files, scores and predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

from funnel.cli.command import entry_point
from funnel_tf.cli.start import run_program


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    run_program("tagger", __doc__, argv)


command = entry_point(main, preemptible=True)
