#!/usr/bin/env bash
# Builds and runs an example; sets up what is missing first.
#   examples/run.sh [NAME] [--out DIR] [flags of the example; --help lists them]
#   examples/run.sh [NAME] --processes N [--shards S] [--out DIR] [flags]    finetune_mlp, finetune_text
# NAME is one of examples/*.cpp, finetune_mlp if left out; results go to build/out/NAME unless --out says otherwise. With
# --processes, mpirun starts N that share the training (Open MPI is installed if there is none); then one process trains with as many shards,
# 8 unless --shards says otherwise, into alone/ of the same folder, and the two adapters are compared, byte for byte.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

name=finetune_mlp
if [ $# -gt 0 ] && [[ $1 != -* ]]; then name=$1 && shift; fi
processes=
shards=8
out="$root/build/out/$name"
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --processes=* | --shards=* | --out=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --processes) processes=${2:?--processes expects a number} && shift ;;
    --shards) shards=${2:?--shards expects a number} && arguments+=("$1" "$2") && shift ;;
    --out) out=${2:?--out expects a folder} && arguments+=("$1" "$2") && shift ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

set_up eigen json cli11 ${processes:+mpi}
# What only this example needs; --model and --wordnet in the flags come later and count.
if [ "$name" = finetune_text ]; then
  fetch_minilm
  fetch_wordnet
  arguments=(--model "$minilm" --wordnet "$wordnet/data.noun" "${arguments[@]}")
fi
# A fair share of the cores; --threads in the flags comes later and counts.
if [ "$name" = finetune_text ] && [ -n "$processes" ]; then
  arguments=(--threads "$(($(nproc) > processes ? $(nproc) / processes : 1))" "${arguments[@]}")
fi
if [ -z "$processes" ]; then run_program examples "$name" "${arguments[@]}"; fi

if ! grep -q 'support/processes.hpp' "$root/examples/$name.cpp"; then
  say "examples/run.sh: $name runs on one process. With --processes there is:" \
    "$(cd "$root/examples" && grep -l 'support/processes.hpp' -- *.cpp | sed 's/\.cpp$//' | tr '\n' ' ')"
  exit 2
fi
configure examples-mpi >&2
cmake --build "$root/build/examples-mpi" --target "$name" -j "$jobs" >&2
program="$root/build/examples-mpi/examples/$name"
mkdir -p "$out/alone"
mpi_environment "$processes"
mpirun "${mpirun_flags[@]}" "$program" "${arguments[@]}" --shards "$shards" --out "$out"
mpi_environment 1
mpirun "${mpirun_flags[@]}" "$program" "${arguments[@]}" --shards "$shards" --out "$out/alone" >"$out/alone/printed.txt" 2>&1
adapter=adapter/adapter_model.safetensors
equal=$(cmp -s "$out/$adapter" "$out/alone/$adapter" && echo true || echo false)
python3 - "$out" "$equal" <<'PYTHON'
import json
import sys
from pathlib import Path

out, equal = Path(sys.argv[1]), sys.argv[2] == "true"
report = json.loads((out / "report.json").read_text())
alone = json.loads((out / "alone" / "report.json").read_text())["samples_per_second"]
report["adapter_equal_to_one_process"] = equal
report["samples_per_second_one_process"] = alone
(out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
print(f"One process with as many shards: {alone:.0f} samples per second, so {report['processes']} are "
      f"{report['samples_per_second'] / alone:.2f} times as fast.")
print("The adapters of both are equal, byte for byte: " + ("yes" if equal else "NO"))
sys.exit(not equal)
PYTHON
