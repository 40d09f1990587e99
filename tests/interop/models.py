#!/usr/bin/env python3
"""transformers and PEFT judge the encoders: for tiny random models of every type and head, with an adapter that PEFT made, the
loss, the outputs and the gradients of every trained tensor are theirs, padded on their side and without padding on ours; so
is the adapter after 20 steps of AdamW, which PEFT loads again. With dropout the judge takes our masks in place of torch's.

  models.py PROGRAM [--model FOLDER]     PROGRAM is program/encoder_models.cpp; FOLDER: a published BERT, judged in float too
  models.py --fixtures                   writes tests/io/fixtures/models anew, for tests/io/pretrained_test.cpp

Needs torch, transformers and peft of today; see run.sh."""

import argparse
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
LENGTHS = [7, 3, 1, 12]
TASKS = {"plain": "FEATURE_EXTRACTION", "sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
# name: type, settings of the config
TYPES = {
    "bert": ("bert", {}),
    "bert relu": ("bert", dict(hidden_act="relu", type_vocab_size=1, classifier_dropout=0.3)),
    "bert gelu_new": ("bert", dict(hidden_act="gelu_new", layer_norm_eps=1e-5)),
    "bert silu": ("bert", dict(hidden_act="silu", num_hidden_layers=3)),
    "roberta": ("roberta", dict(type_vocab_size=1)),
    "distilbert": ("distilbert", {}),
    "distilbert relu": ("distilbert", dict(activation="relu")),
}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
HEADS = {"plain": "Model", "sequence": "ForSequenceClassification", "token": "ForTokenClassification"}


def new_model(kind, settings, head):
    small = dict(vocab_size=50, max_position_embeddings=20, num_labels=3)
    if kind == "distilbert":
        small |= dict(dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    else:
        small |= dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    config = getattr(transformers, CLASSES[kind] + "Config")(**small | settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, CLASSES[kind] + HEADS[head])(config).double()
    with torch.no_grad():  # the fresh ones are too small to show much
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def with_adapter(model, kind, head):
    targets = {"bert": ["query", "value", "output.dense"], "roberta": ["query", "key", "intermediate.dense"],
               "distilbert": ["q_lin", "lin1", "lin2", "out_lin"]}[kind]  # fmt: skip
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type=TASKS[head])
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model.double()


def new_batch(model, kind, head):
    config = model.config
    total, first = sum(LENGTHS), 3
    batch = {"ids": torch.randint(first, config.vocab_size, (total,)), "lengths": torch.tensor(LENGTHS)}
    if kind == "bert" and config.type_vocab_size > 1:
        batch["types"] = torch.randint(0, 2, (total,))
    if head == "plain":
        batch["dy"] = torch.randn(total, getattr(config, "hidden_size", None) or config.dim, dtype=torch.float64)
    else:
        batch["labels"] = torch.randint(0, config.num_labels, (total if head == "token" else len(LENGTHS),))
    return batch


class Padding:
    """Columns of all texts, one after the other, as a padded batch, and back."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.longest = max(lengths)

    def pad(self, flat, value):
        rows = torch.full((len(self.lengths), self.longest, *flat.shape[1:]), value, dtype=flat.dtype)
        first = 0
        for k, length in enumerate(self.lengths):
            rows[k, :length] = flat[first : first + length]
            first += length
        return rows

    def flat(self, padded):
        return torch.cat([padded[k, :length] for k, length in enumerate(self.lengths)])


def run(model, batch, head):
    padding = Padding(batch["lengths"].tolist())
    inputs = {"input_ids": padding.pad(batch["ids"], model.config.pad_token_id or 0),
              "attention_mask": padding.pad(torch.ones_like(batch["ids"]), 0)}  # fmt: skip
    if "types" in batch:
        inputs["token_type_ids"] = padding.pad(batch["types"], 0)
    if head == "plain":
        y = padding.flat(model(**inputs).last_hidden_state)
        return (y * batch["dy"]).sum(), y
    labels = padding.pad(batch["labels"], -100) if head == "token" else batch["labels"]
    result = model(**inputs, labels=labels)
    return result.loss, padding.flat(result.logits) if head == "token" else result.logits


class OurMasks:
    """Takes the place of torch.nn.functional.dropout: multiplies by the next of our masks."""

    def __init__(self, masks, model, kind, head, lengths):
        config, padding = model.config, Padding(lengths)
        heads = getattr(config, "num_attention_heads", None) or config.n_heads
        layers = getattr(config, "num_hidden_layers", None) or config.n_layers
        of_tokens = lambda name: padding.pad(masks[name].T, 1)
        first = torch.tensor([sum(lengths[:k]) for k in range(len(lengths))])
        queue = [of_tokens("mask.embeddings")]
        for layer in range(layers):
            at = f"mask.{layer}"  # ours: (keys, tokens); theirs: (texts, heads, queries, keys)
            queue.append(torch.stack([of_tokens(f"{at}.head.{h}") for h in range(heads)], dim=1))
            if kind != "distilbert":
                queue.append(of_tokens(f"{at}.attention"))
            queue.append(of_tokens(f"{at}.feed_forward"))
        if head == "token":
            queue.append(of_tokens("mask.classifier"))
        if head == "sequence" and kind == "roberta":
            queue.append(masks["mask.classifier_input"].T[first])
        if head == "sequence":
            queue.append(masks["mask.classifier"].T[first])
        self.queue = queue

    def __enter__(self):
        self.torchs = torch.nn.functional.dropout
        torch.nn.functional.dropout = self
        return self

    def __call__(self, x, p=0.5, training=True, inplace=False):
        assert training and p > 0
        mask = self.queue.pop(0)
        assert mask.shape == x.shape, (mask.shape, x.shape)
        assert 0 < (mask == 0).double().mean() < 0.6, "the mask drops nothing, or too much"
        return x * mask

    def __exit__(self, *_):
        torch.nn.functional.dropout = self.torchs
        assert not self.queue, f"{len(self.queue)} masks were not taken"


def gradients(model):
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
        name = name.removesuffix(".weight") if ".lora_" in name else name
        found["gradient." + name] = parameter.grad
    return found


def compare(what, ours, theirs, most):
    """Relative, Frobenius."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    scale = float(theirs.norm())
    error = float((ours.double() - theirs.double()).norm()) / max(scale, 1e-30)
    assert scale > 0, f"{what}: the judge's is zero"
    assert error <= most, f"{what}: differs by {error:.1e}, expected at most {most:.0e}"
    return error


def judge(program, name, kind, settings, head, dropout):
    label = f"{name}, {head}{', dropout' if dropout else ''}"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base = new_model(kind, settings, head)
        base.save_pretrained(folder / "model")
        model = with_adapter(base, kind, head)
        model.save_pretrained(folder / "adapter")
        batch = new_batch(base, kind, head)
        save_file(batch, folder / "batch.safetensors")
        steps = 0 if dropout else 20
        command = [program, "double", kind, head, folder, folder / "out", str(steps), "dropout" if dropout else "plain"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{label}: {done.stderr}"
        ours = load_file(folder / "out")

        model.train(dropout)
        if dropout:
            with OurMasks(ours, base, kind, head, LENGTHS):
                loss, y = run(model, batch, head)
        else:
            loss, y = run(model, batch, head)
        loss.backward()
        worst = compare(f"{label}: loss", ours["loss"].reshape(()), loss.detach(), 1e-9)
        worst = max(worst, compare(f"{label}: y", ours["y"], y.detach(), 1e-9))
        theirs = gradients(model)
        mine = {key for key in ours if key.startswith("gradient.")}
        assert mine == set(theirs), f"{label}: gradients {sorted(mine ^ set(theirs))} are on one side alone"
        for key, gradient in theirs.items():
            worst = max(worst, compare(f"{label}: {key}", ours[key].reshape(gradient.shape), gradient, 1e-9))
        line = f"{label}: {len(theirs)} gradients, largest relative difference {worst:.0e}"
        if steps > 0:
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
            for _ in range(steps):
                optimizer.zero_grad()
                run(model, batch, head)[0].backward()
                optimizer.step()
            # PEFT reads ours beside its own, into a fresh copy.
            fresh = new_model(kind, settings, head)
            fresh.load_state_dict(load_file(folder / "model" / "model.safetensors"))
            again = peft.PeftModel.from_pretrained(fresh, folder / "out.adapter").double()
            assert again.peft_config["default"].task_type == TASKS[head], again.peft_config["default"].task_type
            wanted = peft.get_peft_model_state_dict(model)
            given = peft.get_peft_model_state_dict(again)
            assert set(wanted) == set(given), f"{label}: keys {sorted(set(wanted) ^ set(given))}"
            after = max(compare(f"{label}: after {steps} steps: {key}", given[key], wanted[key], 1e-8) for key in wanted)
            line += f"; after {steps} steps of AdamW {after:.0e}"
        print(line, flush=True)


def write_fixtures():
    """Models, adapters and what the judge computes with them."""
    folder = Path(__file__).resolve().parent.parent / "io" / "fixtures" / "models"
    for name, kind, head in [("bert", "bert", "sequence"), ("roberta", "roberta", "sequence"),
                             ("distilbert", "distilbert", "token")]:  # fmt: skip
        at = folder / name
        base = new_model(kind, TYPES[name][1], head)
        base.save_pretrained(at / "model")
        model = with_adapter(base, kind, head)
        model.save_pretrained(at / "adapter")
        (at / "adapter" / "README.md").unlink()
        batch = new_batch(base, kind, head)
        save_file(batch, at / "batch.safetensors")
        model.eval()
        loss, y = run(model, batch, head)
        loss.backward()
        expected = {"loss": loss.detach().reshape(1), "y": y.detach().contiguous()} | gradients(model)
        save_file(expected, at / "expected.safetensors")


def judge_published(program, folder):
    """A real model, in float on both sides."""
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        torch.manual_seed(1)
        base = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=4, attn_implementation="eager")
        base.save_pretrained(temporary / "model")
        model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS"))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(temporary / "adapter")
        lengths = torch.randint(1, 65, (16,))
        batch = {"ids": torch.randint(1000, 30000, (int(lengths.sum()),)), "lengths": lengths,
                 "labels": torch.randint(0, 4, (16,))}  # fmt: skip
        save_file(batch, temporary / "batch.safetensors")
        subprocess.run([program, "float", "bert", "sequence", temporary, temporary / "out"], check=True)
        ours = load_file(temporary / "out")
        model.eval()
        loss, y = run(model, batch, "sequence")
        loss.backward()
        error = compare("loss", ours["loss"].reshape(()), loss.detach(), 1e-6)
        outputs = compare("y", ours["y"], y.detach(), 1e-4)
        worst = max(compare(key, ours[key].reshape(gradient.shape), gradient, 2e-3) for key, gradient in gradients(model).items())
        print(f"{folder}, float: loss {float(loss):.7f}, differs by {error:.0e}; y by {outputs:.0e}, gradients by {worst:.0e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--fixtures", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.fixtures:
        return write_fixtures()
    if not arguments.program:
        parser.error("PROGRAM is missing")
    for name, (kind, settings) in TYPES.items():
        for head in HEADS:
            for dropout in [False, True]:
                judge(arguments.program, name, kind, settings, head, dropout)
    if arguments.model:
        judge_published(arguments.program, arguments.model)


main()
