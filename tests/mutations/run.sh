#!/usr/bin/env bash
# Shows that the tests notice plausible bugs: applies each patch of this folder to a copy of the library, one at a time, and
# expects the test that it names to fail. Before that, every patch must apply, whichever are chosen.
#   tests/mutations/run.sh [--some] [NAME...]     --some: four of them, others every day
# A patch begins with one sentence on the bug and the line
#   # test: FOLDER/FILE_test.cpp [CATCH2 FILTER]
# Fails when a mutant survives or does not compile, when a patch no longer applies, or when a test fails without any.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

here="$root/tests/mutations"
build="$root/build/mutations"
tree="$build/tree"

all=("$here"/*.patch)
chosen=()
for argument in "$@"; do
  if [ "$argument" = --some ]; then
    first=$((10#$(date +%j) * 4))
    for k in 0 1 2 3; do chosen+=("${all[$(((first + k) % ${#all[@]}))]}"); done
  else
    chosen+=("$here/${argument%.patch}.patch")
    if [ ! -f "${chosen[-1]}" ]; then say "tests/mutations/run.sh: there is no $argument.patch" && exit 2; fi
  fi
done
if [ ${#chosen[@]} -eq 0 ]; then chosen=("${all[@]}"); fi

test_of() { sed -n 's/^# test: \([^ ]*\).*/\1/p' "$1"; }
filter_of() { sed -n 's/^# test: [^ ]* *//p' "$1"; }
target_of() { test_of "$1" | sed 's/[^A-Za-z0-9]/_/g'; }

set_up eigen catch2 json
mkdir -p "$tree"
find "$tree" -name '*.orig' -delete # of a run that was killed
# Files that have not changed keep their times, so that a second run compiles little.
for part in include tests benchmarks/support examples/support examples/data CMakeLists.txt; do
  (cd "$root" && find "$part" -type f) | while IFS= read -r file; do
    cmp -s "$root/$file" "$tree/$file" || install -D -m 644 "$root/$file" "$tree/$file"
  done
done
(cd "$tree" && find include -type f) | while IFS= read -r file; do [ -f "$root/$file" ] || rm "$tree/$file"; done

sources=$(for patch in "${chosen[@]}"; do test_of "$patch"; done | sort -u | paste -sd ';')
cmake -S "$here" -B "$build/objects" -Dtree="$tree" -Dsources="$sources" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS_DEBUG=-O0 >"$build/configure.log" || { cat "$build/configure.log" && exit 1; }

# compile PATCH, run_test PATCH: the test that the patch names, against the copy as it is now.
compile() { cmake --build "$build/objects" -j "$jobs" --target "$(target_of "$1")" >"$build/compile.log" 2>&1; }
run_test() {
  local filter
  filter=$(filter_of "$1")
  timeout 300 "$build/objects/$(target_of "$1")" ${filter:+"$filter"} >"$build/test.log" 2>&1 || return 1
  if grep -q '^No tests\? ' "$build/test.log"; then return 1; fi # the filter is wrong
}

# The files as they were. Not by the patch in reverse: a line that it takes away could come back elsewhere.
restore() {
  find "$tree" -name '*.orig' | while IFS= read -r saved; do
    mv "$saved" "${saved%.orig}"
    touch "${saved%.orig}"
  done
}

bad=0
killed=0
verdict() { # verdict NAME TEXT [bad]
  printf '%-44s %s\n' "$1" "$2"
  if [ "${3:-}" = bad ]; then bad=$((bad + 1)); fi
}

# Without fuzz, which would put a bug where it is none.
applies() { patch -d "$tree" -p1 -s -F0 --dry-run <"$1" >/dev/null; }
for patch in "${all[@]}"; do
  applies "$patch" || verdict "$(basename "$patch" .patch)" "no longer applies" bad
done

for patch in "${chosen[@]}"; do
  applies "$patch" || continue
  name=$(basename "$patch" .patch)
  if ! compile "$patch" || ! run_test "$patch"; then
    cat "$build/compile.log" "$build/test.log" | tail -n 30
    verdict "$name" "its test fails without it" bad
    continue
  fi
  patch -d "$tree" -p1 -s -F0 --backup <"$patch"
  if ! compile "$patch"; then
    tail -n 30 "$build/compile.log"
    verdict "$name" "does not compile" bad
  elif run_test "$patch"; then
    verdict "$name" "SURVIVES $(test_of "$patch")" bad
  else
    verdict "$name" "killed by $(test_of "$patch")"
    killed=$((killed + 1))
  fi
  restore
done

echo
echo "$killed of ${#chosen[@]} mutants killed"
[ "$bad" -eq 0 ]
