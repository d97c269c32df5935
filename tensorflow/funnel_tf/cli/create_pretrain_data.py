"""``create_pretrain_data.py``: text to records; needs absl, but not TensorFlow."""

from __future__ import annotations

from funnel.cli.create_pretrain_data import choose_tasks, write_corpus
from funnel.utils.errors import ConfigError
from funnel_tf.cli.configs import load_tokenizer
from funnel_tf.cli.programs import CorpusSettings


def run(settings: CorpusSettings) -> None:
    """Write the records that the settings describe, and print how many.

    Raises:
        FunnelError: settings contradict each other, or the text cannot be read.
    """
    corpus, options = settings.corpus, settings.tasks
    tasks = choose_tasks(options.task, corpus.num_task, options.num_proc)
    tokenizer = load_tokenizer(settings.tokenizer, settings.special_ids)
    if options.vocab_size not in (None, tokenizer.vocab_size):
        size = tokenizer.vocab_size
        raise ConfigError(f"--vocab_size={options.vocab_size}: it is {size} in {tokenizer.path}")
    print(write_corpus(corpus, tasks, tokenizer, options.num_proc or 1))
