#!/usr/bin/env bash
# race.sh on a TPU; it takes the same settings.
#
#   TPU=local CORES=8 RACE_DIR=data/RACE bash tensorflow/scripts/tpu_race.sh
#
# Not tested on a TPU: see docs/tpu.md.
set -euo pipefail

export USE_TPU=${USE_TPU:-True}
export DEVICES=${CORES:-8}                         # cores of one host
export MODEL_DIR=${MODEL_DIR:-exp/tpu-race}

exec bash "$(dirname "${BASH_SOURCE[0]}")/race.sh" "$@"
