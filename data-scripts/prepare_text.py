r"""Turn a folder of text into a corpus: one sentence per line, an empty line after each document.

    python data-scripts/prepare_text.py --input books/ --output_dir corpus/books \
        --documents=file --lines=wrapped
    python data-scripts/prepare_text.py --input 'crawl/*.jsonl.gz' --output_dir corpus/crawl \
        --text_key=text --unique_lines

Reads .txt, .jsonl, Common Crawl's .warc.wet and Gigaword's SGML (--format=gigaword), plain or
compressed with gzip, bzip2 or xz. Run again, the same command writes only the missing files.

Except for Wikipedia, the paper's corpora cannot be downloaded freely. With a copy of your own:

  BookCorpus     11,000 novels (5 GB). The authors no longer give it out; ask them, at
                 https://yknzhu.wixsite.com/mbweb, or collect free books yourself.
                 --documents=file --lines=wrapped
  Gigaword 5     English newswire (16 GB): LDC2011T07 of the Linguistic Data Consortium, for a
                 fee, at https://catalog.ldc.upenn.edu.  --format=gigaword
  ClueWeb12-B    50 million web pages, on disks from Carnegie Mellon University, under a signed
                 licence: https://lemurproject.org/clueweb12. It is HTML: take the text out first
                 with a tool such as trafilatura or resiliparse and write JSON lines.
                 --text_key=text --unique_lines
  Common Crawl   free at https://commoncrawl.org, terms of use apply. The WET files hold the text
                 of pages in all languages, menus included: filter them first, or use a filtered
                 set (C4, FineWeb).  .warc.wet.gz as it is, or JSON lines
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_data.cli.prepare_text import main

if __name__ == "__main__":
    run_main(lambda: main(__doc__))
