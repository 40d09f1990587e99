# Sourced by .ci/run and .ci/full after their arguments are known: a script of stages, of which some can be asked for.
#   SCRIPT [STAGE...]     only these stages, so that several machines can share the work
#   SCRIPT --list         their names

stages_asked_for=("$@")
stages_seen=()
current_stage=

# stage NAME COMMAND...: runs COMMAND and says how long it took, unless other stages are asked for.
stage() {
  local asked start=$SECONDS
  stages_seen+=("$1")
  if [ "${stages_asked_for[0]:-}" = --list ]; then
    printf '%s\n' "$1"
    return
  fi
  if [ ${#stages_asked_for[@]} -gt 0 ]; then
    for asked in "${stages_asked_for[@]}"; do [ "$asked" != "$1" ] || break; done
    [ "$asked" = "$1" ] || return 0
  fi
  current_stage=$1
  printf '\n===== %s\n' "$1"
  "${@:2}"
  printf '===== %s: %d s\n' "$1" $((SECONDS - start))
}

# The last line of such a script: a name that is no stage's must not pass for a success.
all_passed() {
  local asked seen
  current_stage=
  [ "${stages_asked_for[0]:-}" != --list ] || return 0
  for asked in "${stages_asked_for[@]}"; do
    for seen in "${stages_seen[@]}"; do [ "$asked" != "$seen" ] || continue 2; done
    printf '%s: there is no stage "%s", expected some of: %s\n' "$0" "$asked" "${stages_seen[*]}" >&2
    return 1
  done
  printf '\n===== passed in %d s: %s\n' $SECONDS "${stages_asked_for[*]:-${stages_seen[*]}}"
}

trap '[ $? -eq 0 ] || [ -z "$current_stage" ] || printf "\n===== FAILED: %s\n" "$current_stage"' EXIT
