#!/usr/bin/env python3
"""PEFT judges every setting of adapter_config.json with every type of value: where this library loads a file, PEFT loads it
too, and with the same outputs. What PEFT loads and this library refuses is listed below, with the reason.

  settings.py PROGRAM [--all]     PROGRAM is program/peft_settings.cpp; --all prints every cell

Needs torch and peft of today; see run.sh."""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from safetensors.torch import save_file
from torch import nn

VALUES = [None, True, False, 0, 1, 2, -1, 0.5, 2**40, 1e39, float("nan"), "", "q_proj", "layers", "none", [], ["q_proj"],
          ["layers"], [0], [None], {}, {"q_proj": 2}, {"q_proj": None}, {"q_proj": 0.5}, {"q_proj": -1},
          {"q_proj": "2"}, {"other": 2}]  # fmt: skip
ALWAYS = dict(peft_type="LORA", target_modules=["q_proj"], r=2, lora_alpha=4)
BESIDE = {"layers_pattern": dict(layers_to_transform=[0])}  # what a setting needs beside it to be heard


def is_nan(value):
    return isinstance(value, float) and math.isnan(value)


# What PEFT loads and this library refuses: why, which keys, and which values if not all.
STRICTER = [
    ("NaN is not JSON", None, is_nan),
    ("Python takes any value for true or false", {"fan_in_fan_out", "inference_mode", "use_rslora"}, None),
    ("a method that is not applied here, or unknown to both",
     {"alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config", "layer_replication", "lora_bias",
      "megatron_config", "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora",
      "use_qalora", "velora_config", "zz_unknown"}, None),
    ("a name is a text", {"base_model_name_or_path", "revision"}, lambda value: not isinstance(value, str)),
    ("Python takes it for false",
     {"init_lora_weights", "exclude_modules", "modules_to_save", "layers_pattern", "layers_to_transform"},
     lambda value: not value),
    ("names in a list are texts", {"exclude_modules"}, lambda value: value in ([0], [None])),
    ("Python takes an object for the list of its keys", {"target_modules", "exclude_modules", "modules_to_save"},
     lambda value: isinstance(value, dict)),
    ("Python takes a text for the list of its letters", {"modules_to_save"}, lambda value: isinstance(value, str)),
    ("Python takes them for 1 and 0", {"lora_alpha", "lora_dropout"}, lambda value: isinstance(value, bool)),
    ("nothing would be kept, or it is no probability", {"lora_dropout"}, lambda value: value in (1, -1)),
]  # fmt: skip


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(3, 2)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList([Block()]), nn.Linear(2, 3)


class Net(nn.Module):
    """Of a type whose default targets PEFT knows, for a target_modules of null."""

    config = {"model_type": "llama"}

    def __init__(self):
        super().__init__()
        self.model = Body()


def net():
    torch.manual_seed(1)
    return Net().double().eval()


def keys():
    """Those of PEFT today, of PEFT 0.2, and one that nobody knows."""
    return sorted({field.name for field in dataclasses.fields(peft.LoraConfig)} | {"merge_weights", "zz_unknown"})


def theirs(folder, base):
    """The numbers of all outputs as PEFT computes them, or None if it does not load the file; and why."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model = peft.PeftModel.from_pretrained(net(), folder).eval()
            numbers = []
            for path in sorted(key.removesuffix(".input") for key in base if key.endswith(".input")):
                with torch.no_grad():
                    y = model.get_submodule("base_model.model." + path)(base[path + ".input"])
                numbers += y.flatten().tolist()
        return numbers, ""
    except Exception as error:
        return None, (str(error).splitlines() or [""])[0]


def ours(program, folder):
    result = subprocess.run([program, folder / "base.safetensors", folder / "cells"], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    answers = {}
    for line in result.stdout.splitlines():
        name, verdict, rest = line.split("\t")
        answers[name] = ([float(number) for number in rest.split()], "") if verdict == "loads" else (None, rest)
    return answers


def write_files(folder):
    """The base, and a folder for every cell; returns them, by name."""
    model, base, cells = net(), {}, {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            base[path + ".weight"], base[path + ".bias"] = module.weight.detach(), module.bias.detach()
            base[path + ".input"] = torch.randn(2, module.in_features, dtype=torch.float64)
    save_file(base, folder / "base.safetensors")
    factors = {f"base_model.model.model.layers.0.q_proj.lora_{name}.weight": torch.randn(shape, dtype=torch.float64)
               for name, shape in [("A", (2, 3)), ("B", (2, 2))]}  # fmt: skip
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    for key in keys():
        for value in VALUES:
            name = f"{len(cells):04}"
            cells[name] = (key, value)
            here = folder / "cells" / name
            here.mkdir(parents=True)
            os.link(folder / "adapter_model.safetensors", here / "adapter_model.safetensors")
            config = dict(ALWAYS, **BESIDE.get(key, {})) | {key: value}
            (here / "adapter_config.json").write_text(json.dumps(config))
    return base, cells


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base, cells = write_files(folder)
        answers = ours(arguments.program, folder)
        verdicts = {name: theirs(folder / "cells" / name, base) for name in cells}
    wrong, used, count = [], set(), {"both load": 0, "both refuse": 0, "stricter": 0}
    for name, (key, value) in cells.items():
        (mine, why), (numbers, reason) = answers[name], verdicts[name]
        cell = f"{key}: {json.dumps(value)}"
        if arguments.all:
            print(f"  {cell:50} PEFT {reason or 'loads':60.60} here {why or 'loads'}")
        if mine is not None and numbers is None:
            wrong.append(f"{cell} is loaded, and PEFT says: {reason}")
        elif mine is not None:
            count["both load"] += 1
            close = len(mine) == len(numbers) and all(abs(a - b) <= 1e-12 * (1 + abs(b)) for a, b in zip(mine, numbers))
            if not close:
                wrong.append(f"{cell} gives other outputs than PEFT's")
        elif numbers is None:
            count["both refuse"] += 1
        else:
            count["stricter"] += 1
            reasons = [why for why, keys, fits in STRICTER if (not keys or key in keys) and (not fits or fits(value))]
            used.update(reasons)
            if not reasons:
                wrong.append(f"{cell} is loaded by PEFT, and refused here without a reason in STRICTER: {why}")
    wrong += [f"nothing is refused because: {why}" for why, _, _ in STRICTER if why not in used]
    print(f"  {len(keys())} settings x {len(VALUES)} values:", ", ".join(f"{n} {what}" for what, n in count.items()))
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    main()
