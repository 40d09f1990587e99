#!/usr/bin/env python3
"""PEFT judges which layers a config means: for random sets of names and random settings, attach and load_adapter give each
layer what PEFT gives it, a rank, a scale, or full training. What PEFT takes and this library refuses is listed below, with
the reason, and so is what PEFT fails at.

  names.py PROGRAM [--cases N] [--seed N] [--all]     PROGRAM is program/peft_names.cpp; --all prints every refusal

Needs torch and peft of today; see run.sh."""

import argparse
import collections
import json
import os
import random
import re
import subprocess
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from peft.tuners import tuners_utils
from peft.utils.other import get_pattern_key
from torch import nn

# Names within names, with digits, and as they are found in the wild.
WORDS = """o wo q wq q_proj qq_proj k_proj v_proj query encoder decoder model transformer layers layer h block blocks attn
self_attn attention mlp experts fc fc1 fc2 fc10 dense out out_proj proj classifier pre_classifier head lm_head score up-1
0 1 2 3 10 11 12""".split()
PATTERNS = ["rank_pattern", "alpha_pattern"]
FULL = [0, 0]  # what is given to a layer that is trained in full


def paths_of(rng):
    """1 to 9 layers; none is inside another."""
    paths = []

    def add(path):
        inside = any(path == p or path.startswith(p + ".") or p.startswith(path + ".") for p in paths)
        if path and not inside:
            paths.append(path)

    if rng.random() < 0.5:  # blocks with a number, as in most transformers
        start = rng.choice(["", "model.", "transformer.", "base.model.", "encoder."])
        block = rng.choice(["layers", "h", "layer", "blocks"])
        inside = rng.sample(["self_attn.q_proj", "self_attn.k_proj", "attn.q", "attn.o", "mlp.fc1", "mlp.wo", "fc2",
                             "mlp.experts.0.fc", "mlp.experts.1.fc", "mlp.0", "dense", "attn.out.dense"], rng.randint(1, 4))  # fmt: skip
        for number in rng.sample([0, 1, 2, 10, 11], rng.randint(1, 3)):
            for name in inside:
                add(f"{start}{block}.{number}.{name}")
        for _ in range(rng.randint(0, 2)):
            add(rng.choice(["lm_head", "head.dense", "classifier", "pre_classifier", "score", "fc2", "wo", "o"]))
    while len(paths) < 2 or rng.random() < 0.6:
        if paths and rng.random() < 0.6:  # a name like one that is there
            segments = rng.choice(paths).split(".")
            where = rng.randrange(len(segments))
            how = rng.randrange(5)
            if how == 0:
                segments[where] = rng.choice(WORDS)
            elif how == 1:
                segments = segments[where:]
            elif how == 2:
                segments.insert(where, rng.choice(WORDS))
            elif how == 3:
                segments[where] = rng.choice(["pre_", "w", "x", "1"]) + segments[where]
            else:  # what a dot that stands for any character takes for the same
                segments[where : where + 2] = [rng.choice("_1x").join(segments[where : where + 2])]
            add(".".join(segments[:6]))
        else:
            add(".".join(rng.choice(WORDS) for _ in range(rng.randint(1, 5))))
        if len(paths) > 8:
            break
    rng.shuffle(paths)
    return paths


def end_of(rng, path):
    segments = path.split(".")
    return ".".join(segments[rng.randrange(len(segments)) :])


def name_for(rng, paths):
    """A name as people write them in lists: mostly of a layer."""
    path = rng.choice(paths)
    how = rng.random()
    if how < 0.55:
        return path.split(".")[-1]
    if how < 0.75:
        return end_of(rng, path)
    if how < 0.85:
        return path
    if how < 0.95:
        return path[rng.randrange(len(path)) :].lstrip(".")  # also within a word
    return rng.choice(WORDS)


def saved_for(rng, paths):
    """Also a module that contains layers."""
    if rng.random() < 0.6:
        return name_for(rng, paths)
    segments = rng.choice(paths).split(".")
    end = rng.randint(1, len(segments))
    return ".".join(segments[rng.randrange(end) : end])


def pattern_for(rng, paths):
    """A regular expression as people write them for whole names."""
    leaf, other = rng.choice(paths).split(".")[-1], rng.choice(paths).split(".")[-1]
    path = rng.choice(paths)
    return rng.choice([
        rf".*\.{leaf}", rf".*{leaf}", rf".*\.({leaf}|{other})", rf".*({leaf}|{other})$", rf"(.*\.)?{leaf}", path,
        re.escape(path), rf"^{path}$", re.sub(r"\d+", r"\\d+", path), re.sub(r"\d+", "[0-2]", path), rf"{path}|.*\.{other}",
        rf"(?:.*\.)?(?:layers|h|layer)\.[0-9]+\..*{leaf}", rf"[a-z_.0-9]+\.{leaf}", rf"\w+", rf"\w+\.\w+\.{leaf}",
        rf".*\.(?!{leaf})\w+", rf".*[^0-9.]", rf".*\b{leaf}", rf".+?\.{leaf}", rf"(?P<x>.*)\.{leaf}", rf".*{leaf[:1]}.{{0,3}}",
        leaf, rf".*(?<!pre_){leaf}",
    ])  # fmt: skip


def key_for(rng, paths):
    """A key of rank_pattern or alpha_pattern."""
    name = name_for(rng, paths)
    how = rng.random()
    if how < 0.45:
        return name
    if how < 0.8:
        return rng.choice(["^" + name, name + "$", "^" + name + "$", re.escape(name), r".*\." + name, ".*" + name,
                           re.sub(r"\d+", r"\\d+", name), re.sub(r"\d+", "[01]", name), name.replace(".", ".*"),
                           name[:-1] + ".", name + "|" + name_for(rng, paths), f"({name})", name + ".*", "(?:x|" + name + ")",
                           "^(" + name + ")", r"\w+", r"\d+", name + "|^" + name_for(rng, paths), name + r"\b"])  # fmt: skip
    return pattern_for(rng, paths)


def settings_for(rng, paths):
    settings = dict(r=rng.randint(1, 4), lora_alpha=rng.randint(1, 9))
    how = rng.random()
    if how < 0.7:
        settings["target_modules"] = list(dict.fromkeys(name_for(rng, paths) for _ in range(rng.randint(1, 3))))
    else:
        settings["target_modules"] = pattern_for(rng, paths) if how < 0.92 else rng.choice(["all-linear", "All-Linear"])
    if rng.random() < 0.3:
        some = [name_for(rng, paths) for _ in range(rng.randint(1, 2))]
        settings["exclude_modules"] = some if rng.random() < 0.6 else pattern_for(rng, paths)
    if rng.random() < 0.35:
        settings["modules_to_save"] = [saved_for(rng, paths) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.5:
        settings["rank_pattern"] = {key_for(rng, paths): rng.randint(5, 9) for _ in range(rng.randint(1, 3))}
    if rng.random() < 0.4:
        settings["alpha_pattern"] = {key_for(rng, paths): rng.randint(10, 19) for _ in range(rng.randint(1, 3))}
    if rng.random() < 0.2:
        settings["use_rslora"] = True
    if how < 0.7 and rng.random() < 0.3:
        some = rng.sample([0, 1, 2, 10, 11], rng.randint(1, 3))
        settings["layers_to_transform"] = some if rng.random() < 0.7 else some[0]
        if rng.random() < 0.5:
            some = rng.sample(["layers", "h", "layer", "blocks", "experts", "mlp", "lay.rs", "h|layers", "(h|layers)", "l.*r"], rng.randint(1, 2))
            settings["layers_pattern"] = some if rng.random() < 0.7 else some[0]
    return settings


def net_of(paths):
    """A module for each path, in containers."""
    root = nn.Module()
    for path in paths:
        module = root
        *above, last = path.split(".")
        for name in above:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module._modules[name]
        module.add_module(last, nn.Linear(2, 2, bias=False))
    return root


def theirs(paths, settings):
    """What PEFT gives to each layer, and the shapes it stores; or why it fails."""
    net = net_of(paths)
    try:
        model = peft.get_peft_model(net, peft.LoraConfig(**settings))
        tensors = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\n", " "), {}
    result = {}
    for path in paths:
        module, full = model.base_model.model, False
        for name in path.split("."):
            module = module._modules[name]
            if isinstance(module, peft.utils.ModulesToSaveWrapper):
                module, full = module.modules_to_save["default"], True
        if isinstance(module, peft.tuners.lora.Linear):
            if full or isinstance(module.base_layer, peft.utils.ModulesToSaveWrapper):
                result[path] = "an adapter and full training at once"
            else:
                result[path] = [module.r["default"], module.scaling["default"]]
        elif full:
            result[path] = FULL
    return result, {key: list(tensor.shape) for key, tensor in tensors.items()}


def by_functions(paths, settings):
    """What PEFT's functions say of the layers alone, for settings that also fit containers, at which PEFT fails."""
    config = peft.LoraConfig(**settings)
    if str(settings["target_modules"]).lower() == "all-linear":
        config.target_modules = set(paths)
    result = {}
    for path in paths:
        saved = any(is_saved(name, [path]) for name in settings.get("modules_to_save", []))
        if tuners_utils.check_target_module_exists(config, path):
            if saved:
                return "an adapter and full training at once"
            rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, path), config.r)
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha)
            result[path] = [rank, alpha / (rank**0.5 if config.use_rslora else rank)]
        elif saved:
            result[path] = FULL
    return result if any(given != FULL for given in result.values()) else "NoMatchingPeftModuleError: only full training"


def tensors_of(given):
    """The names and shapes in PEFT's file."""
    tensors = {}
    for path, (rank, _) in given.items():
        key = f"base_model.model.{path}."
        shapes = {"weight": [2, 2]} if rank == 0 else {"lora_A.weight": [rank, 2], "lora_B.weight": [2, rank]}
        tensors.update({key + part: shape for part, shape in shapes.items()})
    return tensors


def ends(name, path):
    return path == name or path.endswith("." + name)


def listed(case, key):
    value = case["settings"].get(key) or []
    return [] if isinstance(value, str) else value


def pattern_of(case, key):
    value = case["settings"].get(key)
    return value if isinstance(value, str) and value.lower() != "all-linear" else None


def is_end(name, paths):
    return any(ends(name, path) for path in paths)


def fits_some(pattern, paths):
    return any(re.fullmatch(pattern, path) for path in paths)


def fits_key(key, paths):
    return any(re.match(rf"(.*\.)?({key})$", path) for path in paths)


def patterns_in(case):
    found = [pattern_of(case, key) for key in ["target_modules", "exclude_modules"]]
    found += [key for name in ["rank_pattern", "alpha_pattern"] for key in case["settings"].get(name, {})]
    return [one for one in found if one]


def adapted(case):
    return [path for path, given in case["theirs"].items() if given != FULL]


def parts_of(path):
    return [path[:end] for end in range(1, len(path) + 1) if (path + ".")[end] == "."]


def is_saved(name, paths):
    return any(part.endswith(name) for path in paths for part in parts_of(path))


def blocks_of(case):
    value = case["settings"].get("layers_to_transform", [])
    return value if isinstance(value, list) else [value]


def has_block(case, number):
    """Whether PEFT finds a layer in this block that a name in target_modules is a part of."""
    names = listed(case, "target_modules")
    config = peft.LoraConfig(target_modules=names, layers_to_transform=[number],
                             layers_pattern=case["settings"].get("layers_pattern"))  # fmt: skip
    paths = [path for path in case["paths"] if path not in names]
    return any(tuners_utils.check_target_module_exists(config, path) for path in paths)


def adapts(case, name):
    """Whether a name in target_modules gives a layer an adapter."""
    return any(ends(name, path) for path in adapted(case))


def nested(case):
    """modules_to_save has a module, and one inside of it."""
    names = listed(case, "modules_to_save")
    parts = [part for path in case["paths"] for part in parts_of(path) if any(part.endswith(name) for name in names)]
    return any(part.startswith(other + ".") for part in parts for other in parts)


def names_a_wrapper(case):
    """modules_to_save has the end of a name that PEFT itself gives to a part of a layer with an adapter."""
    parts = ["base_layer", "lora_dropout", "lora_A", "lora_B", "lora_A.default"]
    return any(part.endswith(name) for name in listed(case, "modules_to_save") for part in parts)


# What PEFT takes and this library refuses: why, a part of the message, and whether it is so, by Python's re and PEFT's result.
BOTH = [
    ("look-behind is not supported", "has a kind of group that is not supported",
     lambda case: any("(?<!" in one for one in patterns_in(case))),
    ("PEFT would train an adapter inside of a full copy", "expected one of both",
     lambda case: any(isinstance(given, str) for given in case["theirs"].values())),
]  # fmt: skip
LOAD = BOTH + [
    ("PEFT takes a part of its own for one of modules_to_save", "of the base, differs from the model's", names_a_wrapper),
    ("PEFT stores full training inside of full training twice", "inside of another that modules_to_save names", nested),
]  # fmt: skip
ATTACH = BOTH + [
    ("layers_pattern has alternatives without brackets", "block_names (layers_pattern) has",
     lambda case: "h|layers" in str(case["settings"].get("layers_pattern"))),
    ("a name in target_modules must be the end of a layer's", "modules names",
     lambda case: any(not is_end(name, case["paths"]) for name in listed(case, "target_modules"))),
    ("a name in exclude_modules must be the end of a layer's", "exclude names",
     lambda case: any(not is_end(name, case["paths"]) for name in listed(case, "exclude_modules"))),
    ("a pattern in exclude_modules must match a layer", "exclude is the pattern",
     lambda case: not fits_some(pattern_of(case, "exclude_modules"), case["paths"])),
    ("a name in modules_to_save must match a layer", "modules_to_save names",
     lambda case: any(not is_saved(name, case["paths"]) for name in listed(case, "modules_to_save"))),
    ("a key of a pattern must match a layer with an adapter", "which matches no layer that receives an adapter",
     lambda case: any(not fits_key(key, adapted(case)) for name in PATTERNS for key in case["settings"].get(name, {}))),
    ("a block must have a layer that target_modules names", "a block without a layer",
     lambda case: any(not has_block(case, number) for number in blocks_of(case))),
    ("a name in target_modules must give a layer an adapter", "which gives no layer an adapter",
     lambda case: any(not adapts(case, name) for name in listed(case, "target_modules"))),
]  # fmt: skip
# What PEFT fails at and this library takes: why, a part of PEFT's message, whether it is so.
LENIENT = {
    "attach": [
        ("PEFT wants an adapter in some layer, attach is content with full training", "NoMatchingPeftModuleError",
         lambda case, mine: all(given == FULL for given in mine.values())),
        ("PEFT takes a part of its own for one of modules_to_save", "modules_to_save",
         lambda case, mine: names_a_wrapper(case)),
        ("PEFT takes a part of its own for one of modules_to_save", "an adapter and full training at once",
         lambda case, mine: names_a_wrapper(case)),
    ],
    "load": [],
}  # fmt: skip


def without_strangers(case):
    """The settings without what fits no layer, which PEFT ignores and attach refuses."""
    settings, paths = dict(case["settings"]), case["paths"]
    for key, fits in [("target_modules", is_end), ("exclude_modules", is_end), ("modules_to_save", is_saved)]:
        if isinstance(settings.get(key), list):
            settings[key] = [name for name in settings[key] if fits(name, paths)]
        if key != "target_modules" and not settings.get(key):
            settings.pop(key, None)
    if pattern_of(case, "exclude_modules") and not fits_some(settings["exclude_modules"], paths):
        del settings["exclude_modules"]
    if not isinstance(case["theirs"], str):
        for key, fits in [("target_modules", adapts), ("layers_to_transform", has_block)]:
            if isinstance(settings.get(key), list):
                settings[key] = [one for one in settings[key] if fits(case, one)] or settings[key]
        for name in PATTERNS:
            settings[name] = {key: one for key, one in settings.get(name, {}).items() if fits_key(key, adapted(case))}
    return settings


def check(case, verb, mine, wrong, count):
    given, about = case["theirs"], f"{verb} {case['paths']} {case['settings']}"
    if isinstance(mine, str) and isinstance(given, str):
        count["both refuse"] += 1
    elif isinstance(mine, str):
        reasons = [why for why, words, fits in (LOAD if verb == "load" else ATTACH) if words in mine and fits(case)]
        count.update(reasons[:1])
        if not reasons:
            wrong.append(f"{about}\n    is refused: {mine}\n    PEFT: {given}")
    elif isinstance(given, str) or any(isinstance(one, str) for one in given.values()):
        reasons = [why for why, words, fits in LENIENT[verb] if words in str(given) and fits(case, mine)]
        count.update(reasons[:1])
        if not reasons:
            wrong.append(f"{about}\n    gives {mine}\n    PEFT: {given}")
    else:
        count["the same"] += 1
        same = set(mine) == set(given) and all(
            mine[path][0] == rank and abs(mine[path][1] - scale) <= 1e-12 for path, (rank, scale) in given.items())  # fmt: skip
        if not same:
            wrong.append(f"{about}\n    gives {mine}\n    PEFT: {given}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng, cases, by_parts = random.Random(arguments.seed), [], 0
    for _ in range(arguments.cases):
        paths = paths_of(rng)
        case = dict(paths=paths, settings=settings_for(rng, paths))
        case["theirs"], case["tensors"] = theirs(paths, case["settings"])
        if "is not supported. Currently" in case["theirs"]:
            case["theirs"] = by_functions(paths, case["settings"])
            if not isinstance(case["theirs"], str):
                by_parts += 1
                case["tensors"] = tensors_of(case["theirs"])
        case["config"] = dict(peft_type="LORA", **case["settings"])
        case["fitting"] = dict(peft_type="LORA", **without_strangers(case))
        cases.append(case)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.json"
        told = ["paths", "config", "fitting", "tensors"]
        file.write_text(json.dumps([{key: case[key] for key in told} for case in cases]))
        result = subprocess.run([arguments.program, file, folder], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(cases)
    print(f"  {len(cases)} sets of names; in {by_parts} PEFT fails at containers that fit, too, and its functions judge")
    wrong = []
    for verb, key in [("attach", "attach"), ("attach", "attach_fitting"), ("load", "load")]:
        count = collections.Counter()
        for case, answer in zip(cases, answers):
            check(case, verb, answer[key], wrong, count)
            if arguments.all and isinstance(answer[key], str):
                print(f"  {verb}: {answer[key]} | {case['theirs']}")
        print(f"  {verb if verb == key else 'attach, without names that fit nothing'}:",
              ", ".join(f"{n} {what}" for what, n in count.most_common()))  # fmt: skip
        if key != "attach_fitting":
            tables = [why for why, *_ in (LOAD if verb == "load" else ATTACH) + LENIENT[verb]]
            wrong += [f"{verb}: nothing is there because {why}" for why in tables if not count[why]]
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:20])


if __name__ == "__main__":
    main()
