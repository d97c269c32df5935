#!/usr/bin/env bash
# Download SQuAD 1.1 and 2.0 into data/squad.
#
#   bash data-scripts/download_squad.sh
#
# An interrupted download continues when called again. --help lists the flags. FUNNEL_MIRROR (URL or
# directory) replaces all servers. Needs Python 3.11 and no packages.
set -euo pipefail

exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/fetch.py" squad "$@"
