"""Byte-level tokenizers for judge.py: the files that transformers writes for GPT-2 and RoBERTa, and others of their kind."""

import itertools
import json
import random

from tokenizers import models, pre_tokenizers, trainers
from tokenizers import Tokenizer

KINDS = ("roberta", "gpt2", "prefix", "untrimmed", "trimmed", "mixed", "bytes", "tail", "holes", "whole", "bare")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# Where GPT-2's pattern cuts, and what it does not.
WORDS = ["'s", "'S", "'ll", "'l", "'re", " 've", "''", "don't", "we'd", "'m", "I'm", " ", "  ", "   ", "\t\t", "\r\n", "\u00a0", "\u2003 ", " \u3000",
         "\u0085", "\u200b", "\x1c", "1", "12a", "\u00bd", "\u0661", "\u216b", "\u0301", "a\u0301b", "_", "x" * 70, "!" * 40, "\u0120", "\u0120the", "\u010a",
         "<mask>", " <mask>", "<mask> ", "<s>", "</s>", "<|endoftext|>", "\U0001f600\u200d\U0001f600", "\ufffd"]  # fmt: skip


def added(content, number, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": False} | flags  # fmt: skip


def gpt2(folder):
    """Its tokens in the order of their ids, without the one that ends a text, and its merges."""
    tokens = sorted((number, token) for token, number in json.loads((folder / "encoder.json").read_text(encoding="utf-8")).items())
    merges = [tuple(line.split(" ")) for line in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:] if line]
    tokens = [token for _, token in tokens if token != "<|endoftext|>"]
    assert len(tokens) == 50256 and len(merges) == 50000
    return tokens, merges


def trained(lines, size):
    """The same of a small one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def settings(tokens, merges, kind):
    """A tokenizer.json of this kind."""
    like_gpt2 = kind in ("gpt2", "trimmed", "bare")
    names = [*tokens, "<|endoftext|>"] if like_gpt2 else [*SPECIAL, *tokens, "<mask>"]
    ids = {token: number for number, token in enumerate(names)}
    rng = random.Random(7)
    if kind in ("holes", "whole"):  # tokens that no merge makes, and pairs that have two places
        merges = [merge for merge in merges if rng.random() < 0.8]
        merges += rng.sample(merges, len(merges) // 10)
    prefix, trims = kind in ("prefix", "trimmed", "mixed"), kind not in ("gpt2", "untrimmed")
    special = dict(normalized=True, special=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    file = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added("<|endoftext|>", ids["<|endoftext|>"], **special)] if like_gpt2 else
                        [*(added(token, ids[token], **special) for token in SPECIAL), added("<mask>", ids["<mask>"], lstrip=True, special=True)],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": prefix},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": trims, "add_prefix_space": prefix},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": kind == "whole", "vocab": ids, "merges": merges}}  # fmt: skip
    if like_gpt2:
        file["post_processor"] = byte_level | {"trim_offsets": trims}
    if kind == "gpt2":  # the oldest form
        file["model"]["merges"] = [" ".join(merge) for merge in merges]
        for key in ("type", "byte_fallback", "ignore_merges"):
            del file["model"][key]
        del file["pre_tokenizer"]["use_regex"], file["decoder"]["use_regex"]
    elif kind == "bare":
        file["post_processor"] = file["decoder"] = None
        file["model"] |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    elif kind == "mixed":
        file["post_processor"]["add_prefix_space"] = False
    elif kind == "tail":
        file["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        file["post_processor"] = {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
                                  "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                  "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                           {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]}  # fmt: skip
    elif kind == "bytes":  # added tokens with letters that may stand for bytes, with spaces, and in front of each other
        new = [added("\u00e9", 0, lstrip=True, rstrip=True), added("\u65e5\u672c", 0, rstrip=True), added("\u0120x", 0), added(" d ", 0),
               added("the un", 0, normalized=True, special=True), added("ab", 0, single_word=True), added("\u3000\u3000", 0, lstrip=True),
               added("mask", 0, normalized=True, single_word=True), added("Stra\u00dfe", 0, normalized=True, lstrip=True), added("  ", 0, normalized=True),
               added("\u0120", 0, lstrip=True, rstrip=True), added("a\u0301", 0)]  # fmt: skip
        numbers = itertools.count(len(ids))
        for token in new:
            token["id"] = ids[token["content"]] if token["content"] in ids else next(numbers)
        file["added_tokens"] += new
    return file


def words_of(tokens, rng):
    """Some of the texts that the tokens stand for, and what else is worth a look."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = {letters.pre_tokenize_str(chr(code))[0][0]: code for code in range(128)}
    ascii_only = [token for token in tokens if all(letter in letters for letter in token)]
    return ["".join(chr(letters[letter]) for letter in token) for token in rng.sample(ascii_only, min(300, len(ascii_only)))] + WORDS


def contexts(codes):
    """Each code point alone, after a space, beside itself, and after a digit."""
    return ["".join(f"\n{letter}\n {letter}\n{letter}{letter}\n1{letter}" for letter in codes[at : at + 32]) for at in range(0, len(codes), 32)]
