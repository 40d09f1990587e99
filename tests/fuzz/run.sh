#!/usr/bin/env bash
# Feeds the readers of files with what libFuzzer thinks of, under AddressSanitizer and UndefinedBehaviorSanitizer.
#   tests/fuzz/run.sh [--seconds N] [NAME...]     N seconds (default 20) for each tests/fuzz/NAME.cpp (default all)
#   tests/fuzz/run.sh --total N [NAME...]         N seconds for all of them together, of one processor
#   tests/fuzz/run.sh --fast [--seconds N] ...    without the sanitizers, with the assertions of the standard library: several
#                                                 times as many executions; then all that they found once more, with them
#   tests/fuzz/run.sh --seeds                     writes those seeds in corpus/ that the library itself can write
# Prints the number of executions. Fails when an input crashes, takes longer than 1 s, or holds more than 256 MB of the heap
# beyond its own size; the input is kept in build/fuzz. What it finds that is new stays in build/fuzz/NAME.corpus, beside the
# committed corpus/NAME.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

here="$root/tests/fuzz"
build="$root/build/fuzz"
seconds=20
total=
seeds=
fast=
names=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2 && shift ;;
    --total) total=$2 && shift ;;
    --fast) fast=_fast ;;
    --seeds) seeds=yes ;;
    *) names+=("$1") ;;
  esac
  shift
done
if [ ${#names[@]} -eq 0 ]; then
  for file in "$here"/*.cpp; do names+=("$(basename "$file" .cpp)"); done
fi

if [ -n "$total" ]; then
  seconds=$((total / ${#names[@]}))
  [ "$seconds" -gt 0 ] || { say "$total s are less than one for each of ${#names[@]} targets" && exit 2; }
fi

# A clang that has libFuzzer: an old one first, because its packages are the smallest.
has_fuzzer() {
  local candidate
  for candidate in clang++-{14,15,16,17,18,19,20,21} clang++; do
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
      "$candidate" -x c++ -fsanitize=fuzzer,address,undefined - -o "$build/probe" && clang=$candidate && return
  done
  return 1
}
mkdir -p "$build"
set_up eigen json
clang=
if ! has_fuzzer 2>/dev/null; then
  apt_install clang-14 libclang-rt-14-dev && has_fuzzer || { say "There is no clang with libFuzzer. ${cannot:-}" && exit 1; }
fi

cmake -S "$here" -B "$build/objects" -DCMAKE_CXX_COMPILER="$clang" >"$build/configure.log" || { cat "$build/configure.log" && exit 1; }
if [ -n "$seeds" ]; then
  cmake --build "$build/objects" --target make_seeds
  exec "$build/objects/make_seeds" "$here/corpus"
fi
cmake --build "$build/objects" -j "$jobs" --target all ${fast:+"${names[@]/%/$fast}"} >"$build/compile.log" || { tail -n 30 "$build/compile.log" && exit 1; }

# For speed: short stacks of allocations, little freed memory kept; and no entropic schedule, which takes three quarters of
# the time once the corpus is large.
export ASAN_OPTIONS=malloc_context_size=2:quarantine_size_mb=8
# Each keeps one processor busy, so as many run at a time as there are.
fuzz() {
  mkdir -p "$build/$1.corpus"
  "$build/objects/$1$fast" "$build/$1.corpus" "$here/corpus/$1" -dict="$here/json.dict" -max_total_time="$seconds" \
    -entropic=0 -max_len=4096 -timeout=1 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 \
    -artifact_prefix="$build/$1." >"$build/$1.log" 2>&1 || touch "$build/$1.failed"
  if [ -n "$fast" ]; then
    "$build/objects/$1" -runs=0 -timeout=1 -malloc_limit_mb=256 -artifact_prefix="$build/$1." "$build/$1.corpus" \
      >"$build/$1.again.log" 2>&1 || touch "$build/$1.failed"
  fi
}
rm -f "$build"/*.failed "$build"/*.again.log
for name in "${names[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  fuzz "$name" &
done
wait

executions=0
for name in "${names[@]}"; do
  if [ -e "$build/$name.failed" ]; then
    tail -n 40 "$build/$name.log" $(ls "$build/$name.again.log" 2>/dev/null)
    say "$name: failed; the input is in $build"
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log")
  echo "$name: $runs executions, no failure"
  executions=$((executions + runs))
done
echo "$executions executions"
