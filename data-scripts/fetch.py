"""Download data sets and released checkpoints, with resuming and checks, and unpack them.

    python data-scripts/fetch.py glue --only RTE MRPC       # what download_glue.sh calls
    python data-scripts/fetch.py squad --list               # addresses, without downloading
    FUNNEL_MIRROR=/copies python data-scripts/fetch.py race # from a directory, or another server

Needs Python 3.11 and no packages. Proxies are taken from the environment (http_proxy, https_proxy,
no_proxy), certificates from SSL_CERT_FILE if set. A mirror has each file under the host and path of
its address, as `wget -x` writes it; a directory may also have it under its name alone. An
interrupted download continues when the command is given again. Checksums are not published: the
first download that passes every check writes download-manifest.json, and later ones must match it.
The exit status is 1 if a set failed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a system's own python3 may be older
    sys.exit("error: Python 3.11 or newer is needed: PYTHON=python3.11 bash ...")

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_data.cli.fetch import main

if __name__ == "__main__":
    run_main(lambda: main(__doc__))
