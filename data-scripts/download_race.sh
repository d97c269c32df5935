#!/usr/bin/env bash
# RACE into data/race.
#
#   bash data-scripts/download_race.sh
#
# Interrupted, it goes on when called again. --help lists the flags; FUNNEL_MIRROR (URL or
# directory) redirects everything. Needs Python 3.11 and nothing else.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "$PYTHON" "$here/fetch.py" race "$@"
