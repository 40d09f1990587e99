"""Files against the reference implementation of safetensors and PEFT. Started by benchmarks/run.sh files --peer.

The files are in the page cache: measured is what the programs do, not the disk. Everything that is loaded or saved is
compared, byte by byte, before it is timed.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import peft
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness import Library, Report, interleaved, options

ROUNDS = 21


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def times(ratio):
    return f"{ratio:.2f}x"


def mebibytes(size):
    return f"{size:.2f}"


def check(what, is_so):
    if not is_so:
        sys.exit(f"{what}: not as expected")


def as_bytes(path):
    return np.frombuffer(str(path).encode() + b"\0", np.uint8).copy()


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Layers(torch.nn.Module):
    def __init__(self, count, size):
        super().__init__()
        self.weight = torch.nn.ParameterList(torch.zeros(size, size) for _ in range(count))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("query", "key", "value", "output"):
            setattr(self, name, torch.nn.Linear(384, 384, bias=False))
        self.up, self.down = torch.nn.Linear(384, 1536, bias=False), torch.nn.Linear(1536, 384, bias=False)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.ModuleList(Block() for _ in range(6))
        self.head = torch.nn.Linear(384, 30522, bias=False)


def opening(report, library, path):
    """By the clock: opening, and finding one tensor without looking at its numbers."""
    measured = {"ours": [], "reference": []}
    for _ in range(ROUNDS):
        result = np.empty(2)
        library.open_file(as_bytes(path), result)
        measured["ours"].append(tuple(result))
        before, start = resident(), time.perf_counter()
        with safe_open(path, framework="pt") as file:
            file.get_slice("weight.0")
            measured["reference"].append((time.perf_counter() - start, resident() - before))
    names = {"ours": "ours: Safetensors::open, tensor", "reference": "reference: safe_open, get_slice"}
    rows = [{"who": names[key], "seconds": statistics.median(seconds for seconds, _ in values),
             "worst_seconds": max(seconds for seconds, _ in values),
             "worst_mebibytes": max(memory for _, memory in values)} for key, values in measured.items()]
    report.table("open", {"who": (f"opening {path.stat().st_size / 1e9:.2f} GB", str),
                          "seconds": ("by the clock, ms", milliseconds), "worst_seconds": ("worst of 21", milliseconds),
                          "worst_mebibytes": ("more memory, MiB, worst", mebibytes)}, rows)


def loading(report, library, path, tensors, count, size):
    name = as_bytes(path)
    model = Layers(count, size)
    assigned = Layers(count, size)

    functions = {"memcpy": lambda: library.copy_rows(name), "rows": lambda: library.load_rows(name),
                 "columns": lambda: library.load_columns(name),
                 "reference": lambda: model.load_state_dict(load_file(path)), "views": lambda: library.view_all(name),
                 "lazy": lambda: assigned.load_state_dict(load_file(path), assign=True)}
    seconds, _ = interleaved(functions, 11, 120)
    again = path.with_name("again.safetensors")
    for save in (library.save_rows, library.save_columns):
        save(as_bytes(again))
        check("what was loaded, saved again", again.read_bytes() == path.read_bytes())
    check("load_state_dict", all(torch.equal(model.state_dict()[key], value) for key, value in tensors.items()))
    names = {"memcpy": "memcpy out of the mapped file", "rows": "ours: load_weights, row-major model",
             "columns": "ours: load_weights, column-major model (that of Linear): transposes",
             "reference": "reference: load_file, load_state_dict",
             "views": "ours: open, tensor: views, which read nothing yet",
             "lazy": "reference: load_file, load_state_dict(assign=True), which reads nothing yet"}
    rows = [{"who": names[key], "seconds": value, "over_memcpy": value / seconds["memcpy"]}
            for key, value in seconds.items()]
    report.table("load", {"who": (f"loading {path.stat().st_size / 1e9:.2f} GB into a model", str),
                          "seconds": ("ms", milliseconds), "over_memcpy": ("time / memcpy", times)}, rows)
    return again


def saving(report, library, tensors, path, again):
    name = as_bytes(again)
    theirs = path.with_name("theirs.safetensors")
    functions = {"rows": lambda: library.save_rows(name), "columns": lambda: library.save_columns(name),
                 "reference": lambda: save_file(tensors, theirs, {"format": "pt"})}
    seconds, _ = interleaved(functions, 5, 120)
    check("the reference's file", theirs.read_bytes() == again.read_bytes())
    names = {"rows": "ours: save_weights, row-major model", "columns": "ours: save_weights, column-major model",
             "reference": "reference: save_file"}
    rows = [{"who": names[key], "seconds": value, "over_reference": value / seconds["reference"]}
            for key, value in seconds.items()]
    report.table("save", {"who": (f"saving {path.stat().st_size / 1e9:.2f} GB", str), "seconds": ("ms", milliseconds),
                          "over_reference": ("time / reference", times)}, rows)


def adapter(report, library, folder):
    """By the clock, over an adapter that is there."""
    counts = np.empty(2)
    library.make_encoder(8, counts)
    model = Encoder()
    check("numbers of the model", sum(p.numel() for p in model.parameters()) == int(counts[0]))
    targets = ["query", "key", "value", "output", "up", "down"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    check("numbers of the adapter", model.get_nb_trainable_parameters()[0] == int(counts[1]))
    ours, theirs, result = as_bytes(folder / "ours"), folder / "theirs", np.empty(1)
    measured = {"ours": [], "synced": [], "reference": []}
    for _ in range(ROUNDS):
        library.save_encoder(ours, 0, result)
        measured["ours"].append(float(result[0]))
        library.save_encoder(ours, 1, result)
        measured["synced"].append(float(result[0]))
        start = time.perf_counter()
        model.save_pretrained(theirs)
        measured["reference"].append(time.perf_counter() - start)
    keys = [set(load_file(at / "adapter_model.safetensors")) for at in (folder / "ours", theirs)]
    check("tensors of the adapter", keys[0] == keys[1])
    check("alpha of the adapter", json.loads((folder / "ours" / "adapter_config.json").read_text())["lora_alpha"] == 16)
    names = {"ours": "ours: save_adapter, fsync apart", "synced": "ours: save_adapter, with every fsync",
             "reference": "PEFT: save_pretrained, which has none"}
    rows = [{"who": names[key], "seconds": statistics.median(values), "worst_seconds": max(values)}
            for key, values in measured.items()]
    report.json["adapter_numbers"] = {"model": int(counts[0]), "adapter": int(counts[1])}
    report.table("adapter", {
        "who": (f"an adapter of {int(counts[1])} numbers, rank 8, of a model of {int(counts[0])}", str),
        "seconds": ("by the clock, ms", milliseconds), "worst_seconds": ("worst of 21", milliseconds)}, rows)


def main():
    chosen = options(__doc__.splitlines()[0])
    library = Library(chosen.library)
    count, size = (3, 256) if chosen.quick else (15, 4096)
    report = Report("files", ("safetensors", "torch", "peft", "numpy"))
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tensors = {f"weight.{i}": torch.rand(size, size) for i in range(count)}
    library.make_models(count, size)
    with tempfile.TemporaryDirectory(dir=chosen.out) as folder:
        folder = Path(folder)
        path = folder / "model.safetensors"
        save_file(tensors, path, {"format": "pt"})
        opening(report, library, path)
        again = loading(report, library, path, tensors, count, size)
        saving(report, library, tensors, path, again)
        adapter(report, library, folder)
    report.write(chosen.out)


if __name__ == "__main__":
    main()
