#!/usr/bin/env bash
# Builds and runs a benchmark; sets up what is missing first.
#   benchmarks/run.sh [NAME] [--out DIR] [flags of the benchmark]
# NAME is one of benchmarks/*.cpp, savings if left out; results go to build/out/NAME unless --out says otherwise.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

name=savings
if [ $# -gt 0 ] && [[ $1 != -* ]]; then name=$1 && shift; fi

set_up eigen benchmark
run_program benchmarks "$name" "$@"
