r"""Turn a Wikipedia dump into text: one sentence per line, an empty line after each article.

    python data-scripts/fetch.py wikipedia
    python data-scripts/prepare_wikipedia.py \
        --input data/wikipedia/enwiki-latest-pages-articles.xml.bz2 \
        --output_dir corpus/wikipedia
    python data-scripts/prepare_wikipedia.py --input 'enwiki-*-pages-articles*.xml-p*.bz2' \
        --output_dir corpus/wikipedia --num_task=8 --task=0        # one machine of eight

Dumps come from dumps.wikimedia.org, in any language, as .xml or .xml.bz2, "multistream" or not.
Every process reads its own part of the file, and a compressed dump is never decompressed on disk.
Running text is kept; templates, tables, references, formulas, pictures, headings, lists, redirects
and pages that are not articles are left out. Run again, the same command writes only the missing
files. The English dump (25 GB, 100 GB decompressed) takes about 5 hours of one core, divided by the
number of processes, and gives an estimated 16 GB of text.
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_data.cli.prepare_wikipedia import main

if __name__ == "__main__":
    run_main(lambda: main(__doc__))
