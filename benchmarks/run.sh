#!/usr/bin/env bash
# Builds and runs a benchmark; sets up what is missing first.
#   benchmarks/run.sh [NAME] [--out DIR] [flags of the benchmark]
#   benchmarks/run.sh [NAME] --peer [--out DIR] [flags]     against other libraries, installed from PyPI into build/peers
# NAME is one of benchmarks/*.cpp, savings if left out; with --peer one of benchmarks/peers/*.py, training if left out:
#   training   a step, and inference with one adapter: PyTorch and PEFT
#   mixed      inference of a batch whose samples have adapters of their own: PEFT's adapter_names
#   lowrank    low-rank mathematics: scikit-learn, PyTorch, NumPy, PEFT
#   files      safetensors and adapters: the reference implementation, PEFT
#   transformers   a step, an epoch and inference of BERT: PyTorch, transformers and PEFT, each in a process of its own
# data_parallel runs mpi/data_parallel.cpp with mpirun: two processes against one, and the cost model of docs/parallel.md.
# blocking has no program of its own: blocking/sweep.py compiles the kernels for each candidate.
# Results go to build/out/NAME, or with --peer to build/out/NAME_peer, unless --out says otherwise.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

name=
if [ $# -gt 0 ] && [[ $1 != -* ]]; then name=$1 && shift; fi
peer=
arguments=()
for argument in "$@"; do
  if [ "$argument" = --peer ]; then peer=yes; else arguments+=("$argument"); fi
done

if [ "$name" = blocking ]; then
  set_up eigen
  export CXX
  exec python3 "$root/benchmarks/blocking/sweep.py" "--eigen=$(pkg-config --cflags eigen3)" "${arguments[@]}"
fi
if [ "$name" = data_parallel ]; then
  set_up eigen benchmark json cli11 mpi
  configure benchmarks-mpi >&2
  cmake --build "$root/build/benchmarks-mpi" --target data_parallel -j "$jobs" >&2
  mpi_environment 2
  exec python3 "$root/benchmarks/mpi/data_parallel.py" --program "$root/build/benchmarks-mpi/benchmarks/data_parallel" \
    --mpirun "mpirun ${mpirun_flags[*]:2}" --out "$root/build/out/data_parallel" "${arguments[@]}"
fi
set_up eigen benchmark json cli11
if [ -z "$peer" ]; then run_program benchmarks "${name:-savings}" "${arguments[@]}"; fi

if [ "$name" = transformers ]; then  # peers/transformers.py would hide the package
  fetch_minilm
  fetch_wordnet
  venv="$root/build/peers"
  python_packages numpy==2.4.6 scikit-learn==1.9.1 threadpoolctl==3.8.0 torch==2.13.0 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
  configure benchmarks >&2
  cmake --build "$root/build/benchmarks" --target transformers -j "$jobs" >&2
  exec "$venv/bin/python" "$root/benchmarks/peers/encoders.py" --program "$root/build/benchmarks/benchmarks/transformers" \
    --model "$minilm" --wordnet "$wordnet/data.noun" --out "$root/build/out/transformers_peer" "${arguments[@]}"
fi
name=${name:-training}
peers="$root/benchmarks/peers"
if [ ! -f "$peers/$name.py" ]; then
  say "There is no benchmarks/peers/$name.py. There is:" "$(cd "$peers" && grep -l '^def main' -- *.py | sed 's/\.py$//' | tr '\n' ' ')"
  exit 1
fi
venv="$root/build/peers"
python_packages numpy==2.4.6 scikit-learn==1.9.1 threadpoolctl==3.8.0 torch==2.13.0 peft==0.21.2 transformers==5.23.0 safetensors==0.8.0
library="$root/build/benchmarks/benchmarks/peer_$name.so"
configure benchmarks >&2
cmake --build "$root/build/benchmarks" --target "peer_$name" -j "$jobs" >&2
# One thread for everyone; the libraries read this when they are loaded.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
exec "$venv/bin/python" "$peers/$name.py" --library "$library" --out "$root/build/out/${name}_peer" "${arguments[@]}"
