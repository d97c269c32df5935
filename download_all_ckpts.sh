#!/usr/bin/env bash
# The released checkpoints into ckpts: five sizes, each as PT, TF and FULL-TF.
#
#   bash download_all_ckpts.sh --list
#   bash download_all_ckpts.sh --sizes B4-4-4H768 B6-6-6H768 --formats PT
#   bash download_all_ckpts.sh --dest /data/ckpts --dry-run
#
# Interrupted, it goes on when called again. --help lists the flags; FUNNEL_MIRROR (URL or
# directory) redirects everything. Needs Python 3.11 and nothing else.
set -euo pipefail

PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "$PYTHON" "$here/data-scripts/fetch.py" ckpts "$@"
