#!/usr/bin/env bash
# SQuAD 1.1 and 2.0 into data/squad.
#
#   bash data-scripts/download_squad.sh
#
# Interrupted, it goes on when called again. --help lists the flags; FUNNEL_MIRROR (URL or
# directory) redirects everything. Needs Python 3.11 and nothing else.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "$PYTHON" "$here/fetch.py" squad "$@"
