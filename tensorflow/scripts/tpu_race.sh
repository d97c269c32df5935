#!/usr/bin/env bash
# The same as race.sh on a TPU; what can be set there can be set here.
#
#   TPU=local CORES=8 RACE_DIR=data/RACE bash tensorflow/scripts/tpu_race.sh
#
# Not run by the authors of this file on a TPU: see tensorflow/README.md.
set -euo pipefail

export USE_TPU=${USE_TPU:-True}
export DEVICES=${CORES:-8}                         # cores of one host
export MODEL_DIR=${MODEL_DIR:-exp/tpu-race}

exec bash "$(dirname "${BASH_SOURCE[0]}")/race.sh" "$@"
