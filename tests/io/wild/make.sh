#!/usr/bin/env bash
# Writes the fixtures in this folder anew: make.py with the packages of each release, in a virtual environment of its
# own under build/ (1.2 GB each). Not a part of CI: the fixtures are committed, and read by tests without Python.
#   tests/io/wild/make.sh [NAME...]        NAME: only these fixtures of make.py's table, such as gpt2_default
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../../.ci/setup.sh"

# make PEFT TRANSFORMERS [PACKAGE...]: a transformers of the same months, and what both of them can be imported with.
make() {
  venv="$root/build/wild/peft_${1//./_}"
  python_packages torch==2.13.0 "peft==$1" "transformers==$2" "${@:3}" safetensors==0.8.0
  # The order of a set is in the files that PEFT writes.
  PYTHONPATH="" PYTHONHASHSEED=0 "$venv/bin/python" -W ignore "$root/tests/io/wild/make.py" "${names[@]}"
}

names=("$@")
make 0.4.0 4.31.0 'numpy<2'
make 0.7.1 4.36.2 'numpy<2'
make 0.11.1 4.41.2 'numpy<2'
make 0.14.0 4.47.1
make 0.18.0 4.57.1
make 0.21.2 5.23.0
