"""A published encoder with LoRA: a step, an epoch and inference, against PyTorch with transformers and PEFT. Started by
benchmarks/run.sh transformers --peer. (Not called transformers.py, which would hide the package.)

Each side has a process of its own, and is asked in turns for the seconds of a few rounds. Before that the losses of the
first round are compared. Memory is the high-water mark of those processes. Attention is sdpa, dropout 0.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
LABELS = 20


def peak_bytes():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def serve(folder, file, trains, threads):
    """The peer's process."""
    import peft
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = transformers.BertForSequenceClassification.from_pretrained(
        folder, attn_implementation="sdpa", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"],
                                                       task_type="SEQ_CLS"))
    batches = []
    for one in json.load(open(file))["batches"]:
        longest = max(len(text) for text in one["ids"])
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in one["ids"]])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in one["ids"]])
        batches.append((ids, mask, torch.tensor(one["labels"])))
    model.train(trains)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step():
        first = None
        for ids, mask, labels in batches:
            if trains:
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            else:
                with torch.no_grad():
                    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            first = loss.item() if first is None else first
        return first

    answer = {"loss": step(), "bytes": peak_bytes()}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "bytes": peak_bytes()}), flush=True)


class Side:
    def __init__(self, command):
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a side has ended early")
        return json.loads(line)

    def rounds(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def texts_of(count, length, rng):
    return [[rng.randrange(1000, 30000) for _ in range(length)] for _ in range(count)]


def wordnet_batches(wordnet, tokenizer, rng, count):
    """Definitions of nouns in random order, in batches of 32, as in examples/finetune_text.cpp."""
    definitions = set()
    for line in open(wordnet):
        if not line.startswith(" ") and " | " in line:
            definitions.add(line.split(" | ", 1)[1].strip().split('; "')[0])
    texts = [tokenizer.encode(text).ids[:64] for text in rng.sample(sorted(definitions), count)]
    return [texts[k : k + 32] for k in range(0, count, 32)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", type=Path, required=True, help="data.noun")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", nargs=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.serve:
        return serve(chosen.serve[0], chosen.serve[1], chosen.serve[2] == "step", chosen.threads)

    import tokenizers
    import torch
    import transformers

    from harness import processor, wait_for_idle

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = random.Random(0)
    mini, base = chosen.out / "minilm", chosen.out / "base"
    if not (mini / "model.safetensors").exists():  # with a head, so that both sides start from the same numbers
        transformers.BertForSequenceClassification.from_pretrained(chosen.model, num_labels=LABELS).save_pretrained(mini)
    if not (base / "model.safetensors").exists() and not chosen.quick:
        transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=LABELS)).save_pretrained(base)
    tokenizer = tokenizers.Tokenizer.from_file(str(chosen.model / "tokenizer.json"))
    tokenizer.no_padding()

    full = [texts_of(16, 64, rng)]
    epoch = wordnet_batches(chosen.wordnet, tokenizer, rng, 3000)
    cases = [("MiniLM, 16 x 64", mini, full, "step", 1), ("MiniLM, 16 x 64", mini, full, "step", 2),
             ("MiniLM, 16 x 64", mini, full, "forward", 1),
             ("MiniLM, 2 x 512", mini, [texts_of(2, 512, rng)], "step", 1),
             ("BERT of base size, 8 x 128", base, [texts_of(8, 128, rng)], "step", 1),
             ("an epoch of finetune_text", mini, epoch, "step", 1), ("an epoch of finetune_text", mini, epoch, "step", 2)]
    if chosen.quick:
        cases = [("MiniLM, 2 x 8", mini, [texts_of(2, 8, rng)], what, 1) for what in ("step", "forward")]
    rows = []
    busy = wait_for_idle()
    print(f"{processor()}; torch {torch.__version__}, transformers {transformers.__version__}, peft "
          f"{__import__('peft').__version__}; other programs take {100 * busy:.0f} % of the machine", flush=True)
    for name, folder, batches, what, threads in cases:
        file = chosen.out / "batches.json"
        file.write_text(json.dumps({"batches": [{"ids": texts, "labels": [rng.randrange(LABELS) for _ in texts]}
                                                for texts in batches]}))
        ours = Side([chosen.program, "--model", folder, "--batches", file, "--threads", threads]
                    + (["--forward"] if what == "forward" else []))
        peer = Side([sys.executable, __file__, "--program", "-", "--model", "-", "--wordnet", "-", "--out", "-",
                     "--threads", threads, "--serve", folder, file, what])
        difference = abs(ours.first["loss"] - peer.first["loss"])
        if not difference <= 1e-5 * peer.first["loss"]:
            sys.exit(f"{name}: our loss is {ours.first['loss']}, the peer's {peer.first['loss']}")
        sides = {"ours": ours, "peer": peer}
        once = {key: side.rounds(1)["seconds"] for key, side in sides.items()}
        rounds = {key: max(1, int(0.3 / seconds)) for key, seconds in once.items()}
        times, last, peaks = {key: [] for key in sides}, {}, [ours.first["peak"]]
        repetitions = 3 if chosen.quick or sum(once.values()) > 20 else 9
        for _ in range(repetitions):
            for key in rng.sample(list(sides), 2):
                last[key] = sides[key].rounds(rounds[key])
                times[key].append(last[key]["seconds"] / rounds[key])
                peaks.append(last[key].get("peak", 0))
        for side in sides.values():
            side.end()
        mine, other = (statistics.median(times[key]) for key in ("ours", "peer"))
        row = {"case": name, "what": what, "threads": threads, "ours_ms": 1e3 * mine, "peer_ms": 1e3 * other,
               "ratio": other / mine, "ours_bytes": last["ours"]["bytes"], "peer_bytes": last["peer"]["bytes"],
               "memory_ratio": last["peer"]["bytes"] / last["ours"]["bytes"],
               "share_of_peak": 2 * ours.first["operations"] / mine / max(peaks) / threads}
        rows.append(row)
        print(f"| {name} | {what} | {threads} | {row['ours_ms']:.0f} | {row['peer_ms']:.0f} | {row['ratio']:.2f} | "
              f"{row['ours_bytes'] / 2**20:.0f} | {row['peer_bytes'] / 2**20:.0f} | {100 * row['share_of_peak']:.0f} % |", flush=True)
        (chosen.out / "transformers.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
