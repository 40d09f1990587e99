#!/usr/bin/env python3
"""PEFT judges what this library writes, and writes what this library has to read.

  judge.py PROGRAM            both ways, for an MLP, a GPT-2 and a BERT type model with random weights
  judge.py --fixtures         the committed adapters in tests/io/fixtures/peft/ERA, each with its base, inputs and outputs

PROGRAM is program/peft_layers.cpp. Needs torch, peft (0.7.1 or of today), transformers and safetensors; see run.sh."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

VERSION = tuple(map(int, peft.__version__.split(".")[:2]))
STRUCTURAL = (0, 21)  # from here on keys are found by modules, not by searching for text inside of them
FIXTURES = Path(__file__).resolve().parent.parent / "io" / "fixtures" / "peft"
SAMPLES = 3


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(5, 7), nn.Linear(7, 7, bias=False), nn.Linear(7, 4)

    def forward(self, x):
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)


class Similar(nn.Module):
    """Names that are ends of each other, and names that PEFT itself uses."""

    def __init__(self):
        super().__init__()
        self.fc1, self.block, self.zfc1 = nn.Linear(6, 6), Block(), nn.Linear(6, 6)
        self.lora_weight, self.default_bias, self.weight = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2))


def bert():
    return BertModel(BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                intermediate_size=12, max_position_embeddings=8))  # fmt: skip


def seeded(make):
    torch.manual_seed(3)
    model = make()
    # Tensors without memory of their own would be written twice.
    return model.eval()


def linear_layers(model, only=None):
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and (only is None or only(path)):
            yield path, module


def weight_of(module):
    """(out, in)"""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def base_tensors(model, dtype=torch.float32, only=None):
    torch.manual_seed(4)
    tensors = {}
    for path, module in linear_layers(model, only):
        weight = weight_of(module).detach()
        tensors[path + ".weight"] = weight.clone().contiguous().to(dtype)
        tensors[path + ".input"] = torch.randn(SAMPLES, weight.shape[1], dtype=torch.float32).to(dtype)
        if module.bias is not None:
            # GPT-2 and BERT start with biases of zero, in which a bias that is lost could not be seen.
            with torch.no_grad():
                module.bias.copy_(torch.randn_like(module.bias))
            tensors[path + ".bias"] = module.bias.detach().clone().to(dtype)
    return tensors


def outputs_of(peft_model, base):
    """Of every layer for its own input, by the adapted modules themselves."""
    results = {}
    for key, x in base.items():
        if key.endswith(".input"):
            path = key.removesuffix(".input")
            module = peft_model.get_submodule("base_model.model." + path)
            with torch.no_grad():
                results[path] = module(x)
    return results


def randomize(peft_model):
    torch.manual_seed(5)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(torch.rand_like(parameter) - 0.5)


def check_close(ours, theirs, what, tolerance):
    assert set(ours) == set(theirs), (what, set(ours) ^ set(theirs))
    worst = 0.0
    for path, y in theirs.items():
        difference = (ours[path].double() - y.double()).norm() / y.double().norm()
        worst = max(worst, difference.item())
        assert difference <= tolerance, f"{what}: {path} differs by {difference:.2e}"
    return worst


def run(program, *arguments):
    result = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(map(str, arguments))}\n{result.stderr}"


def adapted(make, settings):
    model = seeded(make)
    base = base_tensors(model)
    model = peft.get_peft_model(model, peft.LoraConfig(**settings))
    randomize(model)
    return model.eval(), base


MODELS = {"mlp": Mlp, "gpt2": gpt2, "bert": bert, "similar": Similar}
ATTENTION = "encoder.layer.0.attention.self.query"

# Model and what LoraConfig gets. Only what 0.7.1 knows, and what it does not.
TO_US = {
    "mlp_plain": ("mlp", dict(r=3, lora_alpha=7, target_modules=["fc1", "fc2"])),
    "mlp_pattern": ("mlp", dict(r=2, lora_alpha=5, target_modules=r"fc\d|head")),
    "mlp_ranks": ("mlp", dict(r=4, lora_alpha=6, target_modules=["fc1", "fc2", "head"], rank_pattern={"fc2": 2},
                              alpha_pattern={"fc2": 3.5})),  # fmt: skip
    "mlp_bias_all": ("mlp", dict(r=2, lora_alpha=4, target_modules=["fc1"], bias="all", lora_dropout=0.1)),
    "mlp_bias_lora_only": ("mlp", dict(r=2, lora_alpha=4, target_modules=["fc1", "fc2"], bias="lora_only")),
    "mlp_full": ("mlp", dict(r=2, lora_alpha=4, target_modules=["fc1"], modules_to_save=["head", "score"])),
    "mlp_full_bias_all": ("mlp", dict(r=2, lora_alpha=4, target_modules=["fc1"], bias="all", modules_to_save=["head"])),
    "gpt2": ("gpt2", dict(r=4, lora_alpha=16, target_modules=["c_attn", "c_fc", "mlp.c_proj"], fan_in_fan_out=True,
                          task_type="CAUSAL_LM")),  # fmt: skip
    "bert": ("bert", dict(r=4, lora_alpha=8, target_modules=["query", "value"])),
    "bert_one_layer": ("bert", dict(r=4, lora_alpha=8, target_modules=["query", "value"], layers_to_transform=[1],
                                    layers_pattern="layer")),  # fmt: skip
}
# What came later, and with which release.
SINCE = {"mlp_rslora": (0, 8), "mlp_rslora_ranks": (0, 18), "similar": STRUCTURAL, "names": STRUCTURAL,
         "container_bias_all": STRUCTURAL}
TO_US_NEW = {
    "mlp_rslora": ("mlp", dict(r=3, lora_alpha=7, target_modules=["fc1", "fc2"], use_rslora=True)),
    "mlp_rslora_ranks": ("mlp", dict(r=3, lora_alpha=7, target_modules="all-linear", use_rslora=True,
                                     rank_pattern={"fc2": 5}, exclude_modules=["head"])),  # fmt: skip
    "similar": ("similar", dict(r=2, lora_alpha=4, target_modules=["fc1", "lora_weight", "default_bias", "weight"],
                                modules_to_save=["block.fc2"])),  # fmt: skip
    "container_bias_all": ("similar", dict(r=2, lora_alpha=4, target_modules=["zfc1"], bias="all",
                                           modules_to_save=["block"])),  # fmt: skip
}

# Model, what the program gets, and which layers are to be different from the base.
FROM_US = {
    "plain": ("mlp", "targets=fc1,fc2 rank=3 alpha=7"),
    "rslora": ("mlp", "targets=fc1,fc2 rank=3 alpha=7 rslora=1"),
    "ranks": ("mlp", "targets=fc1,fc2,head rank=4 alpha=6 ranks=fc2:2 alphas=fc2:3.5,head:9"),
    "rslora_ranks": ("mlp", "targets=fc1,fc2,head rank=4 alpha=6 ranks=fc2:3,head:7 rslora=1"),
    "bias_lora_only": ("mlp", "targets=fc1,fc2 rank=2 alpha=4 bias=lora_only"),
    "bias_all": ("mlp", "targets=fc1,fc2 rank=2 alpha=4 bias=all"),
    "full": ("mlp", "targets=fc1 full=head rank=2 alpha=4"),
    "double": ("mlp", "targets=fc1,fc2 rank=3 alpha=7 dtype=F64"),
    "similar_targets": ("similar", "targets=fc1,zfc1 rank=2 alpha=4"),
    "gpt2": ("gpt2", "targets=c_attn,c_fc,mlp.c_proj rank=4 alpha=16 fan_in_fan_out=1 task=CAUSAL_LM ranks=c_fc:2"),
    "bert": ("bert", f"targets=query,value rank=4 alpha=8 ranks={ATTENTION}:6 alphas={ATTENTION}:5 rslora=1"),
}
FROM_US_NEW = {
    "names": ("similar", "targets=lora_weight,default_bias,weight rank=2 alpha=4 full=block.fc2 bias=all"),
}


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 9), nn.Linear(9, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def check_training(program, folder, steps=100):
    """The same start, the same data, 100 steps of AdamW: in double the same adapter, in float no farther from it than twice
    PyTorch's own."""
    torch.manual_seed(6)
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    start = seeded(Trained)
    base = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    settings = dict(r=3, lora_alpha=7, target_modules=["fc1", "fc2", "fc3"], bias="all")
    start = peft.get_peft_model(start, peft.LoraConfig(**settings))
    start.save_pretrained(folder / "start")
    results = {}
    for scalar, dtype in {"double": torch.float64, "float": torch.float32}.items():
        tensors = {name: tensor.to(dtype) for name, tensor in dict(base, x=x, y=y).items()}
        save_file(tensors, folder / f"{scalar}.safetensors")
        run(program, scalar, "train", folder / f"{scalar}.safetensors", folder / "start", folder / f"ours_{scalar}", steps)
        model = seeded(Trained)
        model = peft.PeftModel.from_pretrained(model, folder / "start", is_trainable=True).to(dtype)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype)).backward()
            optimizer.step()
        model.save_pretrained(folder / f"theirs_{scalar}")
        for who in ["ours", "theirs"]:
            results[who, scalar] = load_file(folder / f"{who}_{scalar}" / "adapter_model.safetensors")
    before = load_file(folder / "start" / "adapter_model.safetensors")
    exact = results["theirs", "double"]
    worst = {key: 0.0 for key in ["ours double", "ours float", "theirs float"]}
    for name, expected in exact.items():
        assert (expected - before[name]).norm() > 0.01, f"training: {name} was not trained"
        assert results["ours", "double"][name].dtype == torch.float64
        for key in worst:
            who, scalar = key.split()
            difference = (results[who, scalar][name].double() - expected).norm() / expected.norm()
            worst[key] = max(worst[key], difference.item())
    print(f"  {steps} steps of AdamW:", ", ".join(f"{key} {value:.1e}" for key, value in worst.items()))
    assert worst["ours double"] <= 1e-10
    assert worst["ours float"] <= 2 * worst["theirs float"]


def known(cases):
    return [(name, case) for name, case in cases.items() if VERSION >= SINCE.get(name, (0, 7))]


def stores_biases(adapter):
    """Older versions store no biases for lora_only."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return any(key.endswith("base_layer.bias") for key in file.keys())


def check_to_us(program, folder):
    for name, (kind, settings) in known(dict(TO_US, **TO_US_NEW)):
        model, base = adapted(MODELS[kind], settings)
        here = folder / f"to_us_{name}"
        here.mkdir()
        model.save_pretrained(here / "adapter")
        save_file(base, here / "base.safetensors")
        run(program, "float", "load", here / "base.safetensors", here / "adapter", here / "out.safetensors", here / "again")
        if settings.get("bias") == "lora_only" and not stores_biases(here / "adapter"):
            model = seeded(MODELS[kind])  # as PEFT reads it itself
            base_tensors(model)
            model = peft.PeftModel.from_pretrained(model, here / "adapter").eval()
        theirs = outputs_of(model, base)
        worst = check_close(load_file(here / "out.safetensors"), theirs, name, 1e-6)
        same = settings.get("bias") != "all" or "modules_to_save" not in settings
        same = same and (settings.get("bias") != "lora_only" or stores_biases(here / "adapter"))
        for file in ["adapter_config.json", "adapter_model.safetensors"]:
            equal = (here / "adapter" / file).read_bytes() == as_peft_writes(here / "again" / file)
            assert equal or not same, f"{name}: {file} is not written again as it was"
        print(f"  to us    {name:20} {worst:.1e}  {'byte for byte again' if same else ''}")


def as_peft_writes(file):
    """The bytes of a file, of weights without the settings in their metadata."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    del header["__metadata__"]["lora_config"]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def check_from_us(program, folder):
    for name, (kind, settings) in known(dict(FROM_US, **FROM_US_NEW)):
        model = seeded(MODELS[kind])
        base = base_tensors(model)
        here = folder / f"from_us_{name}"
        here.mkdir()
        save_file(base, here / "base.safetensors")
        run(program, "float", "save", here / "base.safetensors", here / "adapter", here / "out.safetensors",
            *settings.split())  # fmt: skip
        before = {path: module(base[path + ".input"]).detach() for path, module in linear_layers(model)}
        model = peft.PeftModel.from_pretrained(model, here / "adapter").eval()
        theirs = outputs_of(model, base)
        ours = load_file(here / "out.safetensors")
        worst = check_close(ours, theirs, name, 1e-6)
        assert any((before[path] - y).norm() > 0.1 for path, y in theirs.items()), f"{name}: nothing was adapted"
        # Once more under another name, for the lists of keys; biases cannot be there twice.
        if "bias=" not in settings:
            result = model.load_adapter(here / "adapter", "again")
            missing = [key for key in result.missing_keys if "again" in key]
            assert not missing and not result.unexpected_keys, (name, missing, result.unexpected_keys)
        # What PEFT writes of it has the same numbers.
        model.delete_adapter("again") if "again" in model.peft_config else None
        model.save_pretrained(here / "theirs")
        stored, again = load_file(here / "adapter" / "adapter_model.safetensors"), load_file(
            here / "theirs" / "adapter_model.safetensors")  # fmt: skip
        for key in again:
            if VERSION < STRUCTURAL and kind == "similar":
                continue  # it writes whatever has lora_ in its name, also that layer's own weight
            assert key in stored or "original_module" in key or "modules_to_save" in key, (name, key)
        for key, tensor in stored.items():
            if "bias=lora_only" in settings and key.endswith("bias") and not stores_biases(here / "theirs"):
                continue
            assert torch.equal(tensor.float(), again[key]), f"{name}: {key} is not what PEFT holds"
        print(f"  from us  {name:20} {worst:.1e}")


def check_metadata(program, folder):
    """A further key in the metadata, such as the settings that our weights carry, is no trouble."""
    model, base = adapted(Mlp, TO_US["mlp_plain"][1])
    model.save_pretrained(folder / "metadata")
    file = folder / "metadata" / "adapter_model.safetensors"
    save_file(load_file(file), file, {"format": "pt", "lora_config": "0123456789abcdef"})
    again = seeded(Mlp)
    base_tensors(again)  # the same biases
    again = peft.PeftModel.from_pretrained(again, folder / "metadata").eval()
    check_close(outputs_of(again, base), outputs_of(model, base), "metadata", 0)


def write_configs():
    """What Python's json writes, for tests/io/peft_config_test.cpp: a config as a new one has to look, and a strange one."""
    new = dict(alpha_pattern={"fc1": 3, "b.fc2": 1e-7}, auto_mapping=None, base_model_name_or_path='a "base"\\', bias="none",
               fan_in_fan_out=True, inference_mode=True, init_lora_weights=True, layers_pattern=None,
               layers_to_transform=None, loftq_config={}, lora_alpha=6.5, lora_dropout=0.05, megatron_config=None,
               megatron_core="megatron.core", modules_to_save=["k\u00f6pfe", "\U0001f600\x7f\n"], peft_type="LORA", r=4,
               rank_pattern={"fc1": 2, "b.fc2": 16}, revision=None, target_modules=["b.fc2", "fc1"],
               task_type="CAUSAL_LM")  # fmt: skip
    strange = dict(new, lora_alpha=16.5, target_modules=["fc1"], lora_dropout=0.0, base_model_name_or_path=None,
                   rank_pattern={}, alpha_pattern={}, modules_to_save=None, zz_future={"b": None, "a": [1, 2.5, {}]},
                   another="\u00e9", peft_version="9.9.9", qalora_group_size=16, big=123456789012345678901234567890,
                   negative=-5, empty=[])  # fmt: skip
    text = json.dumps(strange, indent=2, sort_keys=True).replace("16.5", "1.65e1").replace("2.5,", "2.50,")
    (FIXTURES / "new_config.json").write_text(json.dumps(new, indent=2, sort_keys=True))
    (FIXTURES / "strange_config.json").write_text(text)


def write_fixtures():
    """Small adapters as this version of PEFT writes them, the base, inputs, and outputs of every layer."""
    write_configs()
    era = FIXTURES / peft.__version__
    shutil.rmtree(era, ignore_errors=True)
    names = ["mlp_ranks", "mlp_bias_all", "mlp_bias_lora_only", "mlp_full", "gpt2", "bert"]
    if VERSION >= (0, 8):
        names = ["mlp_ranks", "mlp_rslora", "mlp_rslora_ranks"]  # what an era adds
    if VERSION >= (0, 20):
        names += ["mlp_bias_all", "mlp_bias_lora_only", "mlp_full", "gpt2", "bert", "similar"]
    for name, (kind, settings) in known(dict(TO_US, **TO_US_NEW)):
        if name not in names:
            continue
        model, base = adapted(MODELS[kind], settings)
        model.save_pretrained(era / name)
        (era / name / "README.md").unlink(missing_ok=True)
        save_file(base, era / name / "base.safetensors")
        save_file(outputs_of(model, base), era / name / "outputs.safetensors")
        print(era / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--fixtures", action="store_true")
    arguments = parser.parse_args()
    print(f"peft {peft.__version__}, torch {torch.__version__}")
    if arguments.fixtures:
        return write_fixtures()
    if not arguments.program:
        parser.error("PROGRAM is missing")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        check_to_us(arguments.program, folder)
        check_from_us(arguments.program, folder)
        check_metadata(arguments.program, folder)
        check_training(arguments.program, folder)
    print("all agree")


if __name__ == "__main__":
    main()
