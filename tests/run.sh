#!/usr/bin/env bash
# Builds and runs every test, or those of one folder; sets up what is missing first.
#   tests/run.sh [--preset NAME] [-D...: to CMake] [anything else: to CTest, for example -R adapters]
#   tests/run.sh --folder NAME [--preset NAME] [-D...: to CMake] [anything else: to Catch2, for example "laws: LoRA*"]
#
# While a change is being made, --folder is the one to use: it builds nothing but tests/NAME, so that from an empty build
# folder a failing test is seen within two minutes on two processors, and within seconds afterwards.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/setup.sh"

preset=default
folder=
to_cmake=()
to_test=()
while [ $# -gt 0 ]; do
  case $1 in
    --preset)
      if [ $# -lt 2 ]; then say "tests/run.sh: --preset is given without a name, expected one of CMakePresets.json" && exit 2; fi
      preset=$2 && shift
      ;;
    --folder)
      # Those with tests; the others hold what belongs to tests.
      folders=$(cd "$root/tests" && printf '%s\n' */*_test.cpp | cut -d/ -f1 | uniq)
      if ! grep -qxF -- "${2:-}" <<<"$folders"; then
        say "tests/run.sh: there is no folder \"${2:-}\" of tests, expected one of: ${folders//$'\n'/ }" && exit 2
      fi
      folder=$2 && shift
      ;;
    -D*) to_cmake+=("$1") ;;
    *) to_test+=("$1") ;;
  esac
  shift
done

set_up eigen catch2 json cli11
configure "$preset" "${to_cmake[@]}"
if [ -n "$folder" ]; then
  cmake --build "$root/build/$preset" --target "test_$folder" -j "$jobs"
  cd "$root/build/$preset/tests" # where CTest runs it
  exec "./test_$folder" "${to_test[@]}"
fi
cmake --build "$root/build/$preset" -j "$jobs"
ctest --test-dir "$root/build/$preset" --output-on-failure -j "$jobs" "${to_test[@]}"
