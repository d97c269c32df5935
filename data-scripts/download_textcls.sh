#!/usr/bin/env bash
# Download seven text classification sets into data: imdb ag dbpedia yelp2 yelp5 amazon2 amazon5.
#
#   bash data-scripts/download_textcls.sh
#   bash data-scripts/download_textcls.sh --only imdb ag --dest /data
#
# An interrupted download continues when called again. --help lists the flags. FUNNEL_MIRROR (URL or
# directory) replaces all servers. Needs Python 3.11 and no packages.
set -euo pipefail

exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/fetch.py" textcls "$@"
