r"""Turn a Wikipedia dump into text: one sentence per line, an empty line after each article.

    python data-scripts/fetch.py wikipedia
    python data-scripts/prepare_wikipedia.py \
        --input data/wikipedia/enwiki-latest-pages-articles.xml.bz2 \
        --output_dir corpus/wikipedia
    python data-scripts/prepare_wikipedia.py --input 'enwiki-*-pages-articles*.xml-p*.bz2' \
        --output_dir corpus/wikipedia --num_task=8 --task=0        # one machine of eight

Dumps come from dumps.wikimedia.org. Any language, .xml or .xml.bz2, "multistream" or not: every
process reads its own part of the file. Kept is what a reader sees as running text; templates,
tables, references, formulas, pictures, headings and lists go, and with them redirects and pages
that are no articles. The same command again does only what is missing. The dump is read where it
lies, never unpacked on disk. The English one (25 GB, 100 GB unpacked) takes some 5 hours of one
core, divided by the number of processes, and leaves an estimated 16 GB of text.
"""

from __future__ import annotations

import argparse
import glob
from pathlib import Path

import _paths  # noqa: F401

from funnel.utils.errors import DataError
from funnel.utils.logging import configure_logging
from funnel.utils.main import run_main
from funnel_data.cli.prepare import add_work_flags, run_shards, shard_bytes
from funnel_data.corpora.sharding import plan_shards
from funnel_data.corpora.wikipedia import WikipediaReader, check_dump
from funnel_data.corpora.wikitext import NO_TEXT, WikitextOptions


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument_group("files").add_argument
    flag("--input", nargs="+", required=True, help="dumps, or quoted patterns of them")
    flag("--output_dir", required=True, help="folder for wikipedia.00000-of-00123.txt and so on")
    flag = parser.add_argument_group("text").add_argument
    flag(
        "--min_characters",
        type=int,
        default=100,
        help="leave out articles with less text, e.g. those that only list others (%(default)s)",
    )
    flag("--keep_lists", action="store_true", help="keep list items, each as a paragraph")
    flag("--unique_lines", action="store_true", help="leave out what a file of text has already")
    add_work_flags(parser)
    return parser.parse_args()


def find_dumps(patterns: list[str]) -> list[str]:
    """Return the files that names and patterns stand for, sorted and each once."""
    found: set[str] = set()
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"--input {pattern}: no such file")
        found.update(matches)
    return sorted(found)


def main() -> None:
    configure_logging()
    flags = parse_flags()
    size = shard_bytes(flags)
    dumps = find_dumps(flags.input)
    names = frozenset(NO_TEXT.union(*(check_dump(Path(dump)) for dump in dumps)))
    reader = WikipediaReader(WikitextOptions(flags.keep_lists, names))
    shards = plan_shards(dumps, "wikipedia", size, can_cut=lambda _: True)
    settings = {"program": Path(__file__).name, "keep_lists": flags.keep_lists}
    run_shards(shards, reader, settings, flags)


if __name__ == "__main__":
    run_main(main)
