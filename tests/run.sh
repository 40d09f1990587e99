#!/usr/bin/env bash
# Builds and runs every test; sets up what is missing first.
#   tests/run.sh [--preset NAME] [-D...: to CMake] [anything else: to CTest, for example -R adapters]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

preset=default
to_cmake=()
to_ctest=()
while [ $# -gt 0 ]; do
  case $1 in
    --preset)
      if [ $# -lt 2 ]; then say "tests/run.sh: --preset is given without a name, expected one of CMakePresets.json" && exit 2; fi
      preset=$2 && shift
      ;;
    -D*) to_cmake+=("$1") ;;
    *) to_ctest+=("$1") ;;
  esac
  shift
done

set_up eigen catch2 json
configure "$preset" "${to_cmake[@]}"
cmake --build "$root/build/$preset" -j "$jobs"
ctest --test-dir "$root/build/$preset" --output-on-failure -j "$jobs" "${to_ctest[@]}"
