#!/usr/bin/env python3
"""Hugging Face's tokenizers 0.23.3 judge lora::Tokenizer: ids, types, offsets and decoded text have to be the same.

  judge.py PROGRAM --model tokenizer.json --gpt2 FOLDER --wordnet FOLDER [--only word_piece|byte_level] [--fuzz N] [--seed N]
  judge.py --fixtures --wordnet FOLDER     writes tests/text/fixtures anew: small tokenizers, and the reference's answers

PROGRAM is oracle/tokenizer.cpp. --model is the tokenizer of all-MiniLM-L6-v2; --gpt2 has encoder.json and vocab.bpe of GPT-2,
of which byte_level.py makes tokenizers; --wordnet has data.noun, data.verb, data.adj and data.adv. tests/text/run.sh fetches
them. Every definition of WordNet is encoded, alone and in pairs, every code point, and N random texts, by tokenizers with all
kinds of settings, N of WordPiece and N of byte-level BPE. With N from 100,000 on, all that is sampled else: pairs, code points
of every kind, and time. That compares how long each needs for the definitions."""

import argparse
import array
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import byte_level
import tokenizers
from byte_level import added
from tokenizers import Tokenizer, normalizers

# Code points that may be treated in another way. There are none; at most 20 may ever be here.
EXCEPT = set()
FIXTURES = Path(__file__).resolve().parent / "fixtures"
FASTER = 4  # than the reference, at least
KINDS = ("plain", "cased", "accents", "stripped", "dirty", "none", "bert", "added", "left")


def every_letter(step):
    """A vocabulary in which little that the normalizer leaves is unknown: code points at the begin of a word and in it,
    those of the alphabets and each step-th of the others."""
    strip = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    letters = set()
    for code in itertools.chain(range(0x30000), range(0xE0000, 0xE0200)):
        if not 0xD800 <= code < 0xE000 and (code < 0x3400 or code % step == 0):
            letters.add(chr(code))
            letters |= set(strip.normalize_str(chr(code)))
    letters = sorted(letters)
    # A word that has no letter of its own at the second place must stay unknown.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "un", "##able", "##aff", "wor", "##ld", "ss", "##ss"]
    return words + letters + [f"##{letter}" for letter in letters]


def settings(model, vocabulary, kind):
    """A tokenizer.json: the model's, with every letter known, and what the kind changes."""
    file = json.loads(json.dumps(model))
    ids = {token: number for number, token in enumerate(vocabulary)}
    file["model"]["vocab"] = ids
    file["truncation"] = None
    for token in file["added_tokens"]:
        token["id"] = ids[token["content"]]
    for name, token in file["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    normalizer = file["normalizer"]
    if kind == "cased":
        normalizer["lowercase"] = False
    elif kind == "accents":
        normalizer["strip_accents"] = False
    elif kind == "stripped":
        normalizer |= {"lowercase": False, "strip_accents": True, "clean_text": False}
    elif kind == "dirty":
        normalizer |= {"clean_text": False, "handle_chinese_chars": False}
        file["decoder"]["cleanup"] = False
    elif kind == "none":
        file["normalizer"] = file["post_processor"] = file["decoder"] = None
        file["model"]["max_input_chars_per_word"] = 7
    elif kind == "bert":
        file["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", ids["[SEP]"]], "cls": ["[CLS]", ids["[CLS]"]]}
    elif kind == "left":
        file["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        file["post_processor"]["pair"] = [
            {"SpecialToken": {"id": "[SEP]", "type_id": 3}}, {"Sequence": {"id": "B", "type_id": 2}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 5}}]  # fmt: skip
        file["post_processor"]["special_tokens"]["[SEP]"] |= {"ids": [ids["[SEP]"], ids["the"]], "tokens": ["[SEP]", "the"]}
    elif kind == "added":
        new = [added("<s>", 0, special=True, single_word=True), added("mask", 0, single_word=True, normalized=True),
               added("Straße", 0, normalized=True, lstrip=True), added("日本", 0, rstrip=True),
               added(" .", 0, normalized=True, rstrip=True, lstrip=True), added("É", 0, lstrip=True, rstrip=True),
               added("the un", 0, normalized=True, special=True), added("ab", 0), added("abc", 0), added("bcd", 0, single_word=True),
               added("ÀB", 0, normalized=True), added("  ", 0, rstrip=True), added(" d", 0, rstrip=True)]  # fmt: skip
        numbers = itertools.count(len(ids))
        for token in new:
            token["id"] = ids[token["content"]] if token["content"] in ids else next(numbers)
        file["added_tokens"] += new
        file["added_tokens"][4] |= {"lstrip": True}
    return file


def texts(count, rng, vocabulary, more=()):
    """Code points of all kinds, mixed with words, marks, spaces and added tokens."""
    marks = [chr(code) for code in itertools.chain(range(0x300, 0x370), range(0x591, 0x5C8), range(0x1DC0, 0x1E00))]
    strange = [chr(code) for code in (0x302E, 0x302F, 0x8D4, 0x8E1, 0x1B44, 0x1BAA, 0x1D165, 0x1D166, 0x1D16D, 0x1D15F, 0x1E000,
               0x1E944, 0x344, 0xF73, 0xF81, 0x130, 0x3A3, 0x212B, 0x1E9E, 0xDF, 0xFB1D, 0xCC0, 0xCCB, 0x958, 0x1109A, 0xAC00, 0xD7A3,
               0x1100, 0x1161, 0xF900, 0x2F800, 0x2000B, 0x200B, 0x200D, 0xFEFF, 0xFFFD, 0x85, 0xA0, 0x3000, 0, 7, 0xB, 0xC, 0x1C, 0x7F,
               0xAD, 0xE000, 0x10FFFF, 0xE0101, 0x10D24, 0x1ACE, 0x345, 0x1DFB, 0xD, 0x2028)]  # fmt: skip
    words = [word for word in vocabulary if len(word) > 1 and not word.startswith("##")] + [
        "unaffable", "World", "don't", "do not", "they've", "n't", "a" * 101, "<s>", "Mask", "mask", "STRASSE", "straße", "日本",
        " .", "É", "E\u0301", "e\u0301", "ab", "abc", "abcd", "bcd", "Àb", "a\u0300b", "THE UN", "the un", "[mask]", "[MASK] ", *more]  # fmt: skip
    blocks = [(0x20, 0x7F)] * 3 + [(0xA0, 0x250), (0x370, 0x600), (0x600, 0x1000), (0x1000, 0x2000), (0x2000, 0x3400), (0x3400, 0xAC00),
              (0xAC00, 0xD7B0), (0xF900, 0x10000), (0x10000, 0x20000), (0x1D000, 0x1D200), (0x20000, 0x30000), (0, 0x110000)]  # fmt: skip

    def code_point():
        while True:
            code = rng.randrange(*rng.choice(blocks))
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def part():
        kind = rng.random()
        if kind < 0.45:
            return code_point()
        if kind < 0.6:
            return rng.choice(marks) if kind < 0.53 else rng.choice(strange)
        if kind < 0.8:
            return rng.choice(words)
        return rng.choice([" ", "  ", "\t", "\n", ".", "e", "A", "-"])

    def text():
        while True:
            made = "".join(part() for _ in range(rng.randrange(25)))
            if not EXCEPT & set(map(ord, made)):
                return made

    return [text() for _ in range(count)]


def answers(program, file, requests):
    """What the program says to each request, as (ids, types, texts, byte offsets, decoded twice)."""
    with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as output:
        for text, pair, most, special in requests:
            lines.write(json.dumps({"text": text, "pair": pair, "max": most, "special": special}, ensure_ascii=False).encode() + b"\n")
        lines.seek(0)
        subprocess.run([program, file], stdin=lines, stdout=output, check=True)
        output.seek(0)
        data = output.read()
    at = 0
    for _ in requests:
        size = int.from_bytes(data[at : at + 4], sys.byteorder)
        numbers = array.array("i", data[at + 4 : at + 4 + 20 * size]).tolist()
        at += 4 + 20 * size
        decoded = []
        for _ in range(2):
            size = int.from_bytes(data[at : at + 4], sys.byteorder)
            decoded.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
        yield numbers[0::5], numbers[1::5], numbers[2::5], list(zip(numbers[3::5], numbers[4::5])), decoded
    assert at == len(data)


def byte_offsets(text):
    if text.isascii():
        return range(len(text) + 1)
    return list(itertools.accumulate((len(letter.encode()) for letter in text), initial=0))


def expected(reference, request, default):
    text, pair, most, special = request
    if most is not None:
        reference.enable_truncation(most, direction=default["direction"] if default else "right")
    elif default is None:
        reference.no_truncation()
    else:
        reference.enable_truncation(default["max_length"], direction=default["direction"])
    encoding = reference.encode(text, pair, add_special_tokens=special)
    maps = [byte_offsets(text), byte_offsets(pair or "")]
    texts = [-1 if number is None else number for number in encoding.sequence_ids]
    offsets = [(0, 0) if number < 0 else (maps[number][begin], maps[number][end])
               for number, (begin, end) in zip(texts, encoding.offsets)]  # fmt: skip
    ids = encoding.ids
    return ids, encoding.type_ids, texts, offsets, [reference.decode(ids, skip) for skip in (True, False)]


def compare(what, program, file, requests):
    """Fails at the first difference."""
    reference = Tokenizer.from_file(str(file))
    reference.no_padding()
    default = reference.truncation
    tokens = 0
    for request, ours in zip(requests, answers(program, file, requests), strict=True):
        theirs = expected(reference, request, default)
        tokens += len(theirs[0])
        for name, one, other in zip(("ids", "types", "texts", "offsets", "decoded"), ours, theirs, strict=True):
            if one != other:
                sys.exit(f"{what}: {name} differ for {request!a}\n  ours   {one!a}\n  theirs {other!a}")
    print(f"{what}: {len(requests)} texts, {tokens} tokens, no difference", flush=True)


def definitions(folder):
    found = []
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="latin-1").splitlines():
            if " | " in line and not line.startswith("  "):
                found.append(line.split(" | ", 1)[1].rstrip())
    return found


def code_points(thorough):
    """All of them, or those of alphabets and some of the others: unicode_table.py has asked for the kind of each."""
    return [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and
            (thorough or code < 0x3400 or code % 61 == 0)]  # fmt: skip


def every_code_point():
    """64 to a text, each between letters of a word."""
    codes = code_points(True)
    return [("".join(f"a{letter}b " for letter in codes[at : at + 64]), None, None, True) for at in range(0, len(codes), 64)]


def requests_of(texts, rng):
    """Half of them plain, the others in pairs, cut off, or without special tokens."""
    for text in texts:
        kind = rng.random()
        pair = rng.choice(texts) if kind < 0.25 else None
        most = rng.randrange(4, 40) if rng.random() < 0.3 else None
        yield text, pair, most, rng.random() > 0.1


def speed(what, program, file, lines, folder, rounds):
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reference = Tokenizer.from_file(str(file))
    reference.no_padding()
    ours = theirs = 1e9
    for _ in range(rounds):
        printed = subprocess.run([program, file, "--time", folder / "lines.txt"], check=True, capture_output=True, text=True).stdout
        ours = min(ours, float(printed.split()[0]))
        start = time.perf_counter()
        tokens = sum(len(reference.encode(line).ids) for line in lines)
        theirs = min(theirs, time.perf_counter() - start)
        assert tokens == int(printed.split()[1])
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    print(f"{what}: speed, one call a line, one thread: {megabytes / ours:.1f} MB/s against {megabytes / theirs:.2f} MB/s, "
          f"{theirs / ours:.1f} times as fast")  # fmt: skip
    if theirs < FASTER * ours:
        sys.exit(f"expected at least {FASTER} times as fast")


PIECES = """the un able aff wor ld ss er ing est low new wide play ed go to school i am you it isn don can won mask ##able ##aff ##ld
##er ##ing ##est ##ed ##s ##ss ##t ##n ##tion ##ly hello world tokenizer token ##izer strasse stras ##se cafe deja vu naive resume""".split()


def write_fixture(kind, file, requests):
    """A tokenizer.json, and what the reference makes of the requests."""
    path = FIXTURES / f"{kind}.json"
    path.write_text(json.dumps(file, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    reference = Tokenizer.from_file(str(path))
    default = reference.truncation
    golden = []
    for request in requests:
        ids, types, of, offsets, decoded = expected(reference, request, default)
        golden.append(dict(zip(("text", "pair", "max", "special"), request)) | {
            "ids": ids, "types": types, "texts": of, "bytes": offsets, "decoded": decoded})  # fmt: skip
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in golden)
    (FIXTURES / f"{kind}.golden.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{path.name}: {reference.get_vocab_size()} tokens, {len(golden)} texts")


def byte_level_fixtures(definitions):
    """Tokenizers with 140 merges, trained on some of WordNet."""
    rng = random.Random(6)
    tokens, merges = byte_level.trained(rng.sample(definitions, 4000), 396)
    chosen = ["", " ", "Hello world", "a small furry pet, that's 's 'S we'll we've I'm you're don't he'd", "the  domestic   cat \n\n of\tthe\r\n\r\nform ",
              "\u00e9t\u00e9 \u65e5\u672c\u8a9e \U0001f600\U0001f601", "in 1984, 3\u00bd \u0661\u0662 \u216b\u2460", "a\u0301b \u0301 \u0e19\u0e49\u0e33",
              "\u00a0a\u3000\u3000b\u2028\u0085c\x1cd", "of <mask> of  <mask>the<mask>", "<s> a </s></s> b <pad><unk>", "<|endoftext|>the <|endoftext|> of",
              "\x00\x7f\u200b\ufffd\ue000", "''s '' 's", "((something)) -- or [other]...", "\u00e9 \u00e9 a \u00e9", "\u65e5\u672c  c \u65e5\u672c",
              "\u0120x \u0120 \u0120the \u0120\u0120", "the un the un", "a\u0301 ab abc \u3000\u3000 mask masks", "  ab  d  x", "Stra\u00dfe  Stra\u00dfe"]  # fmt: skip
    more = texts(60, rng, [], byte_level.words_of(tokens, rng))
    for kind in ("roberta", "gpt2", "prefix", "mixed", "bytes", "tail", "holes", "whole"):
        requests = [(text, None, None, True) for text in chosen + [text for text in more if len(text) < 40][:12]]
        requests += [(rng.choice(chosen), rng.choice(chosen), rng.choice([None, None, 5, 8, 11]), True) for _ in range(8)]
        requests += [(text, None, 4, rng.random() < 0.5) for text in rng.sample(chosen, 4)]
        write_fixture(kind, byte_level.settings(tokens, merges, kind), requests)


def fixtures(definitions):
    """Tokenizers with a vocabulary of two hundred tokens, and texts with what the reference makes of them."""
    letters = [chr(code) for code in itertools.chain(range(0x21, 0x41), range(0x5B, 0x7F))] + list("ABCÉéßñäαβσςяѡ北京日本\u1112\u1161\u11ab\u302e\u302f")
    inside = [f"##{letter}" for letter in letters if letter.isalnum() or ord(letter) > 0x2FF]
    vocabulary = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *inside, *PIECES]))
    special = [added(token, number, special=True) for number, token in enumerate(vocabulary[:5])]

    def part(kind, number):
        return {kind: {"id": number, "type_id": 0}}

    def name(token):
        return {"id": token, "ids": [vocabulary.index(token)], "tokens": [token]}

    cls, sep, second = part("SpecialToken", "[CLS]"), part("SpecialToken", "[SEP]"), {"type_id": 1}
    model = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [cls, part("Sequence", "A"), sep],
                           "pair": [cls, part("Sequence", "A"), sep, {"Sequence": {"id": "B"} | second}, {"SpecialToken": {"id": "[SEP]"} | second}],
                           "special_tokens": {token: name(token) for token in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20}}  # fmt: skip
    FIXTURES.mkdir(exist_ok=True)
    # Each text says what it is about by what is in it.
    chosen = ["", " ", "Hello world", "unaffable", "the widest  school\t\n", "isn't it? don't!", "a,b.c-d", "Stra\u00dfe STRASSE", "caf\u00e9 cafe\u0301 CAF\u00c9",
              "\u0130i\u0307", "\u03a3\u03c2\u03c3 \u03a3\u0391\u03a3", "\u5317\u4eac\u65e5\u672cabc", "\ud55c", "a\u302f\u302eb", "a\u302f\u0327\u302e\u0323b", "\u00e4\u302e\u0301",
              "[MASK] the [mask][MASK]x", "x" * 20, "x" * 21, "a\u200bb\x00c\ufffdd\x7fe", "\x1c\x0b\x0c\x85", "\u00a0a\u3000b\u2028c", "tokenizertokenizer",
              "\U0001f600 emoji", "\ue000", "\u0e19\u0e49\u0e33", "$100 = 50%", "do not go", "\u1d15f\U0001d15f", "##able able##", "na\u00efve r\u00e9sum\u00e9", "[CLS] a [SEP]",
              "\ud558\ud55c", "\u0460\u0461\u0460", "mask maskx xmask mask. MASK", "a  stra\u00dfe  STRA\u00dfE", "a  \u00c9  b \u00c9", "\u65e5\u672c  c \u65e5\u672c",
              "<s>a <s> b<s> <s>", "abcd abc ab bcd", "a    b  c", "a  .  b . .c", "the  un THE UN"]  # fmt: skip
    rng = random.Random(5)
    random_texts = [text for text in texts(200, rng, vocabulary) if len(text) < 30][:40]
    for kind in ("plain", "bert", "left", "added", "cased", "none"):
        file = settings(model, vocabulary, kind)
        requests = [(text, None, None, True) for text in chosen + random_texts]
        requests += [(rng.choice(chosen), rng.choice(chosen), rng.choice([None, None, 5, 8, 11]), True) for _ in range(12)]
        requests += [(text, None, 4, rng.random() < 0.5) for text in rng.sample(chosen, 6)]
        write_fixture(kind, file, requests)
    byte_level_fixtures(definitions)


def judge_word_piece(chosen, rng, lines, folder):
    compare("WordNet", chosen.program, chosen.model, [(line, None, None, True) for line in lines])
    some = rng.sample(lines, 4000)
    compare("WordNet in pairs", chosen.program, chosen.model, [(line, rng.choice(lines), rng.randrange(3, 80), True) for line in some])
    thorough = chosen.fuzz >= 100000
    speed("WordPiece", chosen.program, chosen.model, lines, folder, 2 if thorough else 1)
    model = json.loads(chosen.model.read_text(encoding="utf-8"))
    for kind in KINDS:
        vocabulary = every_letter(1 if thorough or kind == "plain" else 8)
        (folder / "tokenizer.json").write_text(json.dumps(settings(model, vocabulary, kind), ensure_ascii=False), encoding="utf-8")
        if thorough or kind == "plain":
            compare(f"every code point, {kind}", chosen.program, folder / "tokenizer.json", every_code_point())
        made = texts(chosen.fuzz // len(KINDS), rng, vocabulary)
        compare(f"random texts, {kind}", chosen.program, folder / "tokenizer.json", list(requests_of(made, rng)))


def judge_byte_level(chosen, rng, lines, folder):
    tokens, merges = byte_level.gpt2(chosen.gpt2)
    thorough, file = chosen.fuzz >= 100000, folder / "tokenizer.json"
    for kind in byte_level.KINDS:
        file.write_text(json.dumps(byte_level.settings(tokens, merges, kind), ensure_ascii=False), encoding="utf-8")
        if kind == "roberta":
            compare("WordNet, roberta", chosen.program, file, [(line, None, None, True) for line in lines])
            some = lines if thorough else rng.sample(lines, 4000)
            compare("WordNet in pairs, roberta", chosen.program, file, [(line, rng.choice(lines), rng.randrange(4, 80), True) for line in some])
            speed("byte-level BPE", chosen.program, file, lines, folder, 2 if thorough else 1)
        if thorough or kind == "roberta":
            wanted = byte_level.contexts(code_points(thorough and kind == "roberta"))
            compare(f"code points, {kind}", chosen.program, file, [(text, None, None, True) for text in wanted])
        made = texts(chosen.fuzz // len(byte_level.KINDS), rng, [], byte_level.words_of(tokens, rng))
        compare(f"random texts, {kind}", chosen.program, file, list(requests_of(made, rng)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gpt2", type=Path)
    parser.add_argument("--wordnet", type=Path)
    parser.add_argument("--only", choices=("word_piece", "byte_level"))
    parser.add_argument("--fixtures", action="store_true")
    parser.add_argument("--fuzz", type=int, default=18000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    assert tokenizers.__version__ == "0.23.3" and len(EXCEPT) <= 20
    if chosen.wordnet is None or (not chosen.fixtures and None in (chosen.program, chosen.model, chosen.gpt2)):
        parser.error("expected PROGRAM, --model, --gpt2 and --wordnet, or --fixtures and --wordnet")
    lines = definitions(chosen.wordnet)
    assert len(lines) == 117659, f"{len(lines)} definitions, expected 117659"
    if chosen.fixtures:
        fixtures(lines)
        return
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only != "byte_level":
            judge_word_piece(chosen, rng, lines, Path(folder))
        if chosen.only != "word_piece":
            judge_byte_level(chosen, rng, lines, Path(folder))


if __name__ == "__main__":
    main()
