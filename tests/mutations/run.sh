#!/usr/bin/env bash
# Shows that the tests notice plausible bugs: makes each mutant of this folder's *.txt in a copy of the library, one at a
# time, and expects the test that it names to fail. mutate.py says how they are written.
#   tests/mutations/run.sh [--check] [--some] [--since [COMMIT]] [--folder NAME] [NAME...]     --help explains them
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

mutate="$root/tests/mutations/mutate.py"
command -v python3 >/dev/null || apt_install python3 || { say "Python 3 is missing: $cannot" && exit 1; }
case " $* " in *" --check "* | *" --help "* | *" -h "*) exec "$mutate" "$@" ;; esac

"$mutate" --check "$@" >/dev/null # before anything is installed
set_up eigen catch2 json cli11
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs
exec "$mutate" "$@"
