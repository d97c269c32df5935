#!/usr/bin/env bash
# Download the released checkpoints into ckpts: five sizes, each as PT, TF and FULL-TF.
#
#   bash download_all_ckpts.sh --list
#   bash download_all_ckpts.sh --sizes B4-4-4H768 B6-6-6H768 --formats PT
#   bash download_all_ckpts.sh --dest /data/ckpts --dry-run
#
# An interrupted download continues when called again. --help lists the flags. FUNNEL_MIRROR (URL or
# directory) replaces all servers. Needs Python 3.11 and no packages.
set -euo pipefail

exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/data-scripts/fetch.py" ckpts "$@"
