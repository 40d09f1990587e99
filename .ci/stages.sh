# Sourced by .ci/run and .ci/full: a script of stages, of which some can be asked for, so that several machines can share them.
#   SCRIPT [STAGE...]     only these stages
#   SCRIPT --list         their names

asked_for=("$@")
current_stage=
if [ "${1:-}" != --list ] && [ $# -gt 0 ]; then
  names=$("$0" --list)
  for name in "$@"; do
    if ! grep -qxF -- "$name" <<<"$names"; then
      printf '%s: there is no stage "%s", expected some of: %s\n' "$0" "$name" "${names//$'\n'/ }" >&2
      exit 2
    fi
  done
fi

# stage NAME COMMAND...: runs COMMAND and says how long it took, unless other stages are asked for.
stage() {
  local start=$SECONDS
  if [ "${asked_for[0]:-}" = --list ]; then
    printf '%s\n' "$1"
    return
  fi
  if [ ${#asked_for[@]} -gt 0 ] && [[ " ${asked_for[*]} " != *" $1 "* ]]; then return; fi
  current_stage=$1
  printf '\n===== %s\n' "$1"
  "${@:2}"
  printf '===== %s: %d s\n' "$1" $((SECONDS - start))
  current_stage=
}

# What every stage may need beside what it sets up itself.
install_tools() {
  if [ "${asked_for[0]:-}" = --list ]; then return; fi
  find_missing
  need python3 "Python 3" command -v python3
  need python3-venv "Python's venv" python3 -c 'import ensurepip'
  need make "Make" command -v make
  need pkg-config "pkg-config" command -v pkg-config
  [ ${#missing[@]} -eq 0 ] || apt_install "${packages[@]}"
}

trap '[ $? -eq 0 ] || [ -z "$current_stage" ] || printf "\n===== FAILED: %s\n" "$current_stage"' EXIT
