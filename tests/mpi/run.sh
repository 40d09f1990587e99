#!/usr/bin/env bash
# Training on many processes, with real mpirun: the same bits for any number of them, and how errors end all of them.
# Installs Open MPI if it can; without it, skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

find_missing mpi
[ ${#missing[@]} -eq 0 ] || apt_install "${packages[@]}" || true
find_missing mpi
if [ ${#missing[@]} -gt 0 ]; then
  say "tests/mpi: SKIPPED, not found on this machine: ${missing[*]}"
  exit 0
fi
set_up eigen catch2 json cli11 mpi
configure mpi -DLORA_WERROR=ON
cmake --build "$root/build/mpi" -j "$jobs" --target mpi_train mpi_shared

work="$root/build/mpi/work"
rm -rf "$work"
mkdir -p "$work"
cd "$work"
train="$root/build/mpi/tests/mpi_train"
failed=0
check() { # check CLAIM COMMAND...
  if "${@:2}"; then printf 'holds:  %s\n' "$1"; else
    printf 'FAILS:  %s\n' "$1"
    failed=1
  fi
}
# start PROCESSES NAME [FLAG...]: a training in a folder of that name; its status in $status, its seconds in $took.
start() {
  local begin=$SECONDS
  mkdir -p "$2"
  status=0
  mpi_environment "$1"
  timeout 60 mpirun "${mpirun_flags[@]}" "$train" "--out=$2" "${@:3}" >"$2/log" 2>&1 || status=$?
  took=$((SECONDS - begin))
}
same() { cmp "$1/adapter/adapter_model.safetensors" "$2/adapter/adapter_model.safetensors"; }
ended() { [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && [ "$took" -le 10 ]; }
says() { [ "$(grep -oF -- "$2" "$1/log" | wc -l)" -ge "${3:-1}" ] || { cat "$1/log" && false; }; }

for processes in 1 2 3 4 8; do
  start $processes on_$processes
  check "$processes processes train" test $status -eq 0
  check "$processes processes: the adapter is that of one, byte for byte" same on_1 on_$processes
done
cat on_*/log
start 3 pieces --largest=1000
check "and in messages of 1000 bytes" same on_1 pieces
start 1 seven --shards=7
check "while other shards give other bits" eval '! same on_1 seven >/dev/null'

start 3 stopped --steps=20
start 4 stopped --resume
check "resumed on another number of processes: the same bits" same on_1 stopped

# What must be refused: on every process, in the same words.
start 9 many
check "more processes than shards" ended
check "is said by each" says many "there are 9 processes for 8 shards" 9
start 4 model --other-model --on=2
check "another model on one process" ended
check "is said by each" says model "process 2 (" 4
check "with the tensor" says model "fc2.adapters.default.A (4 x 64)" 4
start 3 seed --other-seed --on=1
check "another seed on one process" ended
check "is said by each" says seed "the setting seed differs between processes" 3
start 3 batch --other-batch=12 --on=1
check "a batch of another size on one process" ended
check "is said by each" says batch "process 1 one of 18" 3
start 2 none --no-mpi
check "MPI that is not initialized" ended
check "is said by each" says none "MPI is not initialized" 2

start 2 single --single
check "MPI without the support of threads that is needed" ended
check "is said by each" says single "MPI was initialized with MPI_THREAD_SINGLE" 2

# A process that is lost: the others end within seconds, and the last checkpoint is whole.
for how in throw kill exit; do
  for on in 0 2; do
    start 4 "$how$on" --$how=33 --on=$on
    check "$how in process $on: the others end within $took s" ended
    check "and the last checkpoint resumes to the same bits" eval "start 2 $how$on --resume && same on_1 $how$on"
  done
done
start 4 caught --throw=33 --caught
check "an exception that is caught before MPI would end: the others end within $took s" ended
start 3 disk --no-disk
check "a checkpoint that cannot be written" ended
check "is an error of each" says disk "there is no disk" 3

# The base once for all processes of a machine.
shared() { # shared PROCESSES NAME [FLAG...]
  local begin=$SECONDS
  mkdir -p "$2"
  status=0
  mpi_environment "$1"
  timeout 60 mpirun "${mpirun_flags[@]}" "$root/build/mpi/tests/mpi_shared" "${@:3}" >"$2/log" 2>&1 || status=$?
  took=$((SECONDS - begin))
}
value() { awk -v name="$2" '$1 == name { print $2 }' "$1/log"; }
at_most() { awk -v x="$1" -v limit="$2" 'BEGIN { exit !(x > 0 && x <= limit) }' || { echo "$1 > $2" && false; }; }
files_before=$(find /dev/shm -name 'lora-base-*' | wc -l)
shared 1 alone
shared 4 four
check "four processes share a base of 100 MB" test $status -eq 0
cat alone/log four/log
check "with the outputs of one" test "$(value alone outputs)" = "$(value four outputs)"
one=$(value alone after)
check "in the memory of one and at most 40 MB for each further one" at_most "$(value four after)" "$(awk "BEGIN { print $one + 120 }")"
check "while they load, with one copy more at most" at_most "$(value four peak)" "$(awk "BEGIN { print $one + 120 + 101 }")"
if fetch_minilm; then
  shared 1 bert1 "--model=$minilm"
  shared 4 bert4 "--model=$minilm"
  check "four processes share MiniLM" test $status -eq 0
  cat bert1/log bert4/log
  check "with the outputs of one" test "$(value bert1 outputs)" = "$(value bert4 outputs)"
  check "in the memory of one and at most 40 MB for each further one" at_most "$(value bert4 after)" \
    "$(awk "BEGIN { print $(value bert1 after) + 120 }")"
fi
shared 3 other --other
check "another weight on one process" ended
check "is said by each, with its name" says other "the weight of words (20000000 bytes, at 0) has other elements" 3
shared 2 room --directory=/proc
check "a folder without room" ended
check "is said by each, with what is needed and what there is" says room "/proc has 0 MB free, the frozen weights need 100 MB" 2
check "nothing is left in /dev/shm" test "$(find /dev/shm -name 'lora-base-*' | wc -l)" = "$files_before"

exit $failed
