"""The command line that the ``extract_features.py`` of both trees have in common."""

from __future__ import annotations

import argparse


def define_flags(parser: argparse.ArgumentParser) -> None:
    """The command line of both programs."""
    parser.add_argument("--model", required=True, help="checkpoint of any supported kind")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="text file: one text per line, a tab between two of a pair")
    source.add_argument("--ids", help=".npz file with input_ids (token_type_ids, attention_mask)")
    parser.add_argument("--output", required=True, help=".npz file to write")
    model = parser.add_argument_group("model")
    model.add_argument("--model_config", help="config file, if not beside the weights")
    forms = ("rel_shift", "factorized")
    model.add_argument("--attn_type", choices=forms, help="how relative attention is computed")
    truncate = argparse.BooleanOptionalAction
    model.add_argument(
        "--truncate_seq", action=truncate, help="drop the last position before pooling (default)"
    )
    text = parser.add_argument_group("text")
    kinds = ("word_piece", "sent_piece")
    text.add_argument("--tokenizer_type", default="word_piece", choices=kinds, help="its kind")
    text.add_argument("--tokenizer_path", help="vocabulary, if not beside the weights")
    text.add_argument("--cased", action="store_true", help="do not lower-case")
    text.add_argument("--max_length", type=int, default=512, help="tokens kept of a text")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=32, help="sequences computed at a time")
    run.add_argument("--device_id", type=int, default=0, help="GPU to use; -1 for the CPU")
