#!/usr/bin/env bash
# GLUE into data/glue: nine tasks, the diagnostic set, MRPC with its dev split, QNLI v2.
#
#   bash data-scripts/download_glue.sh
#   bash data-scripts/download_glue.sh --only RTE MRPC --dest /data/glue
#
# Interrupted, it goes on when called again. --help lists the flags; FUNNEL_MIRROR (URL or
# directory) redirects everything. Needs Python 3.11 and nothing else.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "$PYTHON" "$here/fetch.py" glue "$@"
