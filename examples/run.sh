#!/usr/bin/env bash
# Builds and runs an example; sets up what is missing first.
#   examples/run.sh [NAME] [--out DIR] [flags of the example; --help lists them]
# NAME is one of examples/*.cpp, finetune_mlp if left out; results go to build/out/NAME unless --out says otherwise.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

name=finetune_mlp
if [ $# -gt 0 ] && [[ $1 != -* ]]; then name=$1 && shift; fi

set_up eigen json cli11
# What only this example needs; --model and --wordnet in the flags come later and count.
if [ "$name" = finetune_text ]; then
  fetch_minilm
  fetch_wordnet
  set -- --model "$minilm" --wordnet "$wordnet/data.noun" "$@"
fi
run_program examples "$name" "$@"
