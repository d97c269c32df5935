#!/usr/bin/env bash
# Seven text-classification sets into data: imdb ag dbpedia yelp2 yelp5 amazon2 amazon5.
#
#   bash data-scripts/download_textcls.sh
#   bash data-scripts/download_textcls.sh --only imdb ag --dest /data
#
# Interrupted, it goes on when called again. --help lists the flags; FUNNEL_MIRROR (URL or
# directory) redirects everything. Needs Python 3.11 and nothing else.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "$PYTHON" "$here/fetch.py" textcls "$@"
