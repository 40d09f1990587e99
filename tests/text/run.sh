#!/usr/bin/env bash
# Hugging Face's tokenizers judge lora::Tokenizer: the tokenizers of all-MiniLM-L6-v2 and of RoBERTa's kind on WordNet's
# definitions, and others on random texts.
#   tests/text/run.sh [flags of judge.py]      --fixtures writes tests/text/fixtures anew, --table the table of Unicode
# LORA_MINILM names the folder of the model, LORA_GPT2 that of GPT-2's vocabulary, LORA_WORDNET that of WordNet; else they are
# fetched. LORA_TOKENIZERS_PYTHON names an interpreter that has tokenizers 0.23.3.
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
  --fixtures)
    fetch_wordnet
    exec "$python" "$here/judge.py" --fixtures --wordnet "$wordnet"
    ;;
  --table) exec "$python" "$here/unicode_table.py" ;;
esac

fetch_minilm
fetch_gpt2
fetch_wordnet

set_up eigen catch2 json cli11
configure default -DLORA_WERROR=ON
cmake --build "$root/build/default" --target oracle_tokenizer -j "$jobs"
"$python" "$here/unicode_table.py" --check
"$python" "$here/judge.py" "$root/build/default/tests/oracle_tokenizer" --model "$minilm/tokenizer.json" --gpt2 "$gpt2" \
  --wordnet "$wordnet" "$@"
