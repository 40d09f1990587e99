#!/usr/bin/env python3
"""Adapters as they are found in the wild: PEFT of six eras on tiny models of transformers' own classes, for
tests/io/wild_test.cpp. make.sh runs this with each era's packages; CI does not.

  make.py [NAME...]    writes the fixtures of the PEFT that is installed, or only some of them:
    base/tiny-MODEL.safetensors             every parameter of the base, the same for all releases
    PEFT/MODEL_VARIANT/adapter_config.json, adapter_model.safetensors
                                            as PEFT wrote them
    PEFT/MODEL_VARIANT/layers.safetensors   NAME.x and NAME.y: what came into every linear layer, adapted or not, and
                                            what went out, while the whole model computed

All weights are random, and follow from the names of the parameters and a seed. A weight of the base is stored
(out, in), that of a Conv1D, too. The outputs are those of the adapter as PEFT reads it from its own file."""

import json
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"  # the names of the bases are nobody's

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

HERE = Path(__file__).resolve().parent
TOKENS = [[3, 1, 7]]
VOCABULARY = 12


def gpt2(vocabulary=VOCABULARY):
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=12, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    return transformers.LlamaForCausalLM(config)


def t5():
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=0)
    return transformers.T5ForConditionalGeneration(config)


def bert():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8, num_labels=3)
    return transformers.BertForSequenceClassification(config)


def distilbert():
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=8, num_labels=3)
    return transformers.DistilBertForSequenceClassification(config)


MODELS = {"gpt2": gpt2, "llama": llama, "t5": t5, "bert": bert, "distilbert": distilbert,
          "gpt2-resized": lambda: gpt2(VOCABULARY + 2)}
CAUSAL = dict(task_type="CAUSAL_LM")
GPT2 = dict(fan_in_fan_out=True, **CAUSAL)  # its Conv1D has its weight (in, out)
SEQ2SEQ = dict(task_type="SEQ_2_SEQ_LM")
CLASSES = dict(task_type="SEQ_CLS")
DISTIL = dict(target_modules=["q_lin", "v_lin"], **CLASSES)  # PEFT has no default for this class

# By release, and MODEL_VARIANT: what LoraConfig gets, beside r = 2 and lora_alpha = 5. Without target_modules they are
# PEFT's default ones. "save" goes to save_pretrained, "dtype" is that of the stored tensors.
FIXTURES = {
    "0.4.0": {
        "gpt2_default": GPT2,
        "llama_default": CAUSAL,
        "t5_default": SEQ2SEQ,
        "bert_default": CLASSES,
        "distilbert_qv": DISTIL,
        # This release has the layer's own bias under its own name, not under base_layer.
        "bert_bias_lora_only": dict(CLASSES, bias="lora_only"),
        "gpt2_bias_all": dict(GPT2, bias="all"),
        # It takes every name that ends so, also within a word: "wo" has factors, too.
        "t5_ends": dict(SEQ2SEQ, target_modules=["q", "o"]),
    },
    "0.7.1": {
        "gpt2_bias_all": dict(GPT2, bias="all"),
        "llama_layer": dict(CAUSAL, target_modules=["q_proj", "k_proj", "o_proj"], layers_to_transform=[1],
                            layers_pattern="layers"),
        "t5_regex": dict(SEQ2SEQ,
                         target_modules=r"decoder\.block\.\d+\.layer\.[01]\.(SelfAttention|EncDecAttention)\.(q|o)"),
        "bert_rank_pattern": dict(CLASSES, rank_pattern={"layer.0.attention.self.query": 4, "value": 3},
                                  alpha_pattern={"layer.0.attention.self.query": 3, "value": 7.5}),
        "distilbert_dropout": dict(DISTIL, lora_dropout=0.1),
    },
    "0.11.1": {
        "gpt2_all_linear_rslora": dict(GPT2, target_modules="all-linear", use_rslora=True),
        "llama_f16": dict(CAUSAL, target_modules=["q_proj", "v_proj", "gate_proj"], dtype=torch.float16),
        "t5_layer": dict(SEQ2SEQ, target_modules=["q", "v", "wo"], layers_to_transform=0, layers_pattern="block"),
        "bert_bias_lora_only": dict(CLASSES, bias="lora_only"),
        "llama_dora": dict(CAUSAL, use_dora=True),
    },
    "0.14.0": {
        "gpt2_lm_head": dict(GPT2, target_modules=["c_attn", "lm_head"]),
        "llama_lm_head": dict(CAUSAL, target_modules=["q_proj", "v_proj", "lm_head"]),
        "t5_exclude": dict(SEQ2SEQ, target_modules=["q", "v", "wi"],
                           exclude_modules=r"encoder\..*|.*EncDecAttention\.v"),
        "bert_bf16": dict(CLASSES, dtype=torch.bfloat16),
        # "all-linear" would have pre_classifier, too, and PEFT fails: "classifier" of modules_to_save is its end.
        "distilbert_all": dict(CLASSES, target_modules=["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
                               lora_dropout=0.05),
        "llama_modules_to_save": dict(CAUSAL, modules_to_save=["embed_tokens", "lm_head"]),
    },
    "0.18.0": {
        "gpt2-resized_embeddings": dict(GPT2, save=dict(save_embedding_layers=True)),
        "llama_patterns": dict(CAUSAL, target_modules=["q_proj", "k_proj", "down_proj"], use_rslora=True,
                               rank_pattern={r"layers\.1\.self_attn\..*": 3, "^model.layers.0.mlp.down_proj": 1},
                               alpha_pattern={r".*\.down_proj": 9}),
        "gpt2_no_task": dict(fan_in_fan_out=True),
        "llama_embed_tokens": dict(CAUSAL, target_modules=["embed_tokens", "q_proj"]),
        "bert_bias_all": dict(CLASSES, bias="all"),
        "distilbert_exclude": dict(CLASSES, target_modules=["q_lin", "k_lin", "out_lin"],
                                   exclude_modules=["layer.0.attention.out_lin"]),
    },
    "0.21.2": {
        "gpt2_default": GPT2,
        "llama_default": CAUSAL,
        "t5_default": SEQ2SEQ,
        "bert_default": CLASSES,
        "distilbert_qv": DISTIL,
        "llama_lm_head": dict(CAUSAL, target_modules="all-linear", exclude_modules=["mlp.up_proj"],
                              save=dict(save_embedding_layers=True)),
        "gpt2_bias_lora_only": dict(GPT2, target_modules=["c_attn", "mlp.c_proj"], bias="lora_only"),
        "gpt2_modules_to_save": dict(GPT2, modules_to_save=["attn.c_proj", "mlp.c_fc"]),
        "t5_lm_head": dict(SEQ2SEQ, target_modules=["q", "lm_head"]),
        "llama_regex": dict(CAUSAL,
                            target_modules=r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:k_proj|up_proj)))"),
        "llama_tokens": dict(CAUSAL, trainable_token_indices={"embed_tokens": [1, 3]}),
        "llama_pissa": dict(CAUSAL, init_lora_weights="pissa"),
    },
}


def random_like(tensor, name, size):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return size * torch.randn(tensor.shape, generator=generator)


def base_of(kind):
    """The same weights in every release of transformers."""
    model = MODELS[kind]().float()
    for name, parameter in model.named_parameters():
        # Scales of norms are near one; all else is random, so that a bias or weight that is lost can be seen.
        scale = parameter.ndim == 1 and name.endswith("weight")
        with torch.no_grad():
            parameter.copy_(random_like(parameter, name, 0.1 if scale else 0.4) + (1.0 if scale else 0.0))
    # What PEFT writes as base_model_name_or_path; the test finds the base by it.
    model.name_or_path = model.config._name_or_path = f"tiny-{kind}"
    return model.eval()


def is_linear(module):
    return isinstance(module, (nn.Linear, Conv1D))


def write_base(kind, model):
    tensors = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a tied weight under each of its names
        module = model.get_submodule(name.rpartition(".")[0])
        value = parameter.detach()
        value = value.T if isinstance(module, Conv1D) and value.ndim == 2 else value
        tensors[name] = value.clone().contiguous()
    file = HERE / "base" / f"tiny-{kind}.safetensors"
    file.parent.mkdir(exist_ok=True)
    if file.exists():
        there = load_file(file)
        assert set(there) == set(tensors), (kind, set(there) ^ set(tensors))
        assert all(torch.equal(there[name], tensors[name]) for name in there), f"{kind}: another base than before"
    else:
        save_file(tensors, file)


def randomize(model):
    """As training would: whatever may change has changed, the adapters from their start."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(random_like(parameter, name, 0.3).to(parameter.dtype))


def record(peft_model, linear):
    """The inputs and outputs of the linear layers in one forward pass. Each is called once."""
    tensors = {}

    def hook(path):
        def keep(module, inputs, output):
            assert path + ".x" not in tensors, path
            x, y = inputs[0], output
            assert x.dtype == y.dtype == torch.float32, (path, x.dtype, y.dtype)
            tensors[path + ".x"] = x.detach().reshape(-1, x.shape[-1]).clone()
            tensors[path + ".y"] = y.detach().reshape(-1, y.shape[-1]).clone()

        return keep

    for path in linear:
        peft_model.get_submodule("base_model.model." + path).register_forward_hook(hook(path))
    inputs = dict(input_ids=torch.tensor(TOKENS))
    if peft_model.peft_config["default"].task_type in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
        inputs["use_cache"] = False
    if peft_model.peft_config["default"].task_type == "SEQ_2_SEQ_LM":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5]])
    with torch.no_grad():
        peft_model(**inputs)
    assert len(tensors) == 2 * len(linear), set(linear) - {name[:-2] for name in tensors}
    return tensors


def difference(one, other):
    return max((one[key] - other[key]).abs().max().item() for key in one if key.endswith(".y"))


def write(name, settings):
    settings = dict(settings)
    save, dtype = settings.pop("save", {}), settings.pop("dtype", None)
    kind = name.split("_")[0]
    base = base_of(kind)
    linear = [path for path, module in base.named_modules() if is_linear(module)]
    write_base(kind, base)
    torch.manual_seed(1)  # for where adapters start
    model = peft.get_peft_model(base, peft.LoraConfig(**dict(dict(r=2, lora_alpha=5), **settings)))
    randomize(model)
    if dtype is not None:
        model.to(dtype)
    folder = HERE / peft.__version__ / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True, **save)
    (folder / "README.md").unlink(missing_ok=True)
    # As everybody else gets it: from the file, into a base in float32.
    again = peft.PeftModel.from_pretrained(base_of(kind), str(folder)).float().eval()
    tensors = record(again, linear)
    if dtype is None and not (settings.get("bias") == "lora_only"):
        # Older releases store no biases for lora_only.
        lost = difference(record(model.eval(), linear), tensors)
        if lost > 1e-5:
            print(f"  {name}: PEFT reads something else than it wrote, by {lost:.1e}")
    unlike = difference(record_base(kind, linear, settings), tensors)
    assert unlike > 0.05, f"{name}: nothing was adapted"
    save_file(tensors, folder / "layers.safetensors")
    check_texts(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 30_000, f"{name} has {size} bytes"
    count = len(load_file(folder / "adapter_model.safetensors"))
    print(f"  {name}: {size} bytes, {len(linear)} linear layers, {count} tensors")


def record_base(kind, linear, settings):
    """What the layers give with an adapter that has not been trained."""
    fresh = {key: settings[key] for key in ("target_modules", "task_type", "fan_in_fan_out") if key in settings}
    return record(peft.get_peft_model(base_of(kind), peft.LoraConfig(**fresh)).eval(), linear)


def check_texts(folder):
    """No paths of the machine that this ran on."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"].startswith("tiny-"), settings["base_model_name_or_path"]
    for file in folder.iterdir():
        for word in (str(Path.home()), str(HERE.parent), tempfile.gettempdir()):
            assert word.encode() not in file.read_bytes(), (file, word)


def main():
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    for name, settings in FIXTURES[peft.__version__].items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            write(name, settings)


if __name__ == "__main__":
    main()
