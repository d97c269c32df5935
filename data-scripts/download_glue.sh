#!/usr/bin/env bash
# Download GLUE into data/glue: nine tasks, the diagnostic set, MRPC with its dev split, QNLI v2.
#
#   bash data-scripts/download_glue.sh
#   bash data-scripts/download_glue.sh --only RTE MRPC --dest /data/glue
#
# An interrupted download continues when called again. --help lists the flags. FUNNEL_MIRROR (URL or
# directory) replaces all servers. Needs Python 3.11 and no packages.
set -euo pipefail

exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/fetch.py" glue "$@"
