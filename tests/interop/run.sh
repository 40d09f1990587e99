#!/usr/bin/env bash
# Hugging Face PEFT judges the adapters that this library writes, and writes adapters that it has to read: the PEFT of today and
# 0.7.1, each in a virtual environment of its own under build/.
#   tests/interop/run.sh [--fixtures]        --fixtures: writes tests/io/fixtures/peft anew instead
# LORA_PEFT_PYTHON and LORA_OLD_PEFT_PYTHON name interpreters that have the packages already, LORA_MINILM the
# folder of all-MiniLM-L6-v2, which is fetched otherwise.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

here="$root/tests/interop"
build="$root/build/interop"
mkdir -p "$build"

# prepare VARIABLE FOLDER PACKAGE...: sets VARIABLE to an interpreter with these packages, unless it names one.
prepare() {
  local variable=$1
  if [ -n "${!variable:-}" ]; then return; fi
  venv="$build/$2"
  python_packages "${@:3}"
  printf -v "$variable" '%s' "$venv/bin/python"
}

# Compiled while the packages are fetched.
if [ $# -eq 0 ]; then
  set_up eigen json
  cmake -S "$here/program" -B "$build/objects" -DCMAKE_BUILD_TYPE=Release >"$build/configure.log" || { cat "$build/configure.log" && exit 1; }
  cmake --build "$build/objects" -j "$jobs" --target peft_layers peft_settings peft_names encoder_models &
  compiling=$!
fi
prepare LORA_PEFT_PYTHON peft torch==2.13.0 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
prepare LORA_OLD_PEFT_PYTHON peft_0_7_1 torch==2.13.0 peft==0.7.1 transformers==4.36.2 'numpy<2' safetensors==0.8.0

arguments=("$@")
if [ $# -eq 0 ]; then
  wait "$compiling"
  arguments=("$build/objects/peft_layers")
fi
for python in "$LORA_OLD_PEFT_PYTHON" "$LORA_PEFT_PYTHON"; do
  # The order of a set is in the files that PEFT writes.
  PYTHONPATH="" PYTHONHASHSEED=0 "$python" -W ignore "$here/judge.py" "${arguments[@]}"
done
if [ $# -eq 0 ]; then
  fetch_minilm
  PYTHONPATH="" "$LORA_PEFT_PYTHON" -W ignore "$here/settings.py" "$build/objects/peft_settings"
  PYTHONPATH="" "$LORA_PEFT_PYTHON" -W ignore "$here/names.py" "$build/objects/peft_names"
  PYTHONPATH="" "$LORA_PEFT_PYTHON" -W ignore "$here/models.py" "$build/objects/encoder_models" --model "$minilm"
fi
