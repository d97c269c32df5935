# shellcheck shell=bash
# Files and version of SQuAD for prepro_squad.sh and tpu_squad.sh; sourced by them.
# Every setting can come from the environment.

SQUAD_DIR=${SQUAD_DIR:-data/squad}
VERSION=${VERSION:-v2}                             # v1 or v2
OUTPUT_DIR=${OUTPUT_DIR:-proc/squad}               # records

release=v2.0
[[ $VERSION == v1 ]] && release=v1.1
TRAIN_FILE=${TRAIN_FILE:-$SQUAD_DIR/train-$release.json}
PREDICT_FILE=${PREDICT_FILE:-$SQUAD_DIR/dev-$release.json}
