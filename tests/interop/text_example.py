#!/usr/bin/env python3
"""PEFT trains what examples/finetune_text.cpp trains: the same texts, recipe and number of steps, batches padded to the longest.

  text_example.py MODEL TEXTS [--seeds N] [--threads N]     TEXTS is the texts.tsv that the example wrote

Prints the accuracy on the held-out texts of every seed, and the mean. Needs torch, transformers and peft of today."""

import argparse
import os
import random
import time
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = [line.rstrip("\n").split("\t", 2) for line in open(chosen.texts)]
    kinds = sorted({kind for _, kind, _ in rows})
    of_part = lambda wanted: [(text, kinds.index(kind)) for part, kind, text in rows if part == wanted]
    train, test = of_part("train"), of_part("test")
    tokenizer = transformers.AutoTokenizer.from_pretrained(chosen.model)

    def encoded(some):
        texts = tokenizer([text for text, _ in some], padding=True, truncation=True, max_length=64, return_tensors="pt")
        return texts, torch.tensor([kind for _, kind in some])

    def accuracy(model):
        model.eval()
        right = 0
        with torch.no_grad():
            for k in range(0, len(test), 60):
                texts, labels = encoded(test[k : k + 60])
                right += (model(**texts).logits.argmax(1) == labels).sum().item()
        return right / len(test)

    found = []
    for seed in range(1, chosen.seeds + 1):
        random.seed(seed)
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(chosen.model, num_labels=len(kinds))
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS"))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        order, start = list(train), time.perf_counter()
        for _ in range(3):
            model.train()
            random.shuffle(order)
            for k in range(0, len(order), 32):
                texts, labels = encoded(order[k : k + 32])
                loss = model(**texts, labels=labels).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        seconds = time.perf_counter() - start
        found.append(accuracy(model))
        print(f"PEFT, seed {seed}: {100 * found[-1]:.1f} % in {seconds:.0f} s on {chosen.threads} threads", flush=True)
    print(f"PEFT, mean of {len(found)}: {100 * sum(found) / len(found):.1f} %")


main()
