#!/usr/bin/env python3
"""Writes include/lora/text/detail/unicode_table.hpp: what the reference does with each code point.

  unicode_table.py            writes it
  unicode_table.py --check    fails if the committed one is another

The table comes from no database of Unicode. Each code point is given to the parts of Hugging Face's tokenizers, 0.23.3:
these have tables of several ages of Unicode, and what counts is to do the same as they do."""

import sys
from bisect import bisect_right
from functools import cmp_to_key
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

OUT = Path(__file__).resolve().parents[2] / "include/lora/text/detail/unicode_table.hpp"
EXPECTED = "0.23.3"
WIDTH = 120
ALL = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by a formula
CONTROL, SPACE, PUNCTUATION, MARK, CHINESE, WORD = (1 << bit for bit in range(6))
ORDER_SHIFT, FIRST_SHIFT, LONGER = 6, 11, 0x110000
OTHER, LETTER, NUMBER, WHITE, KIND_BITS = 0, 1, 2, 3, 2


def asked(**which):
    """What one step of BertNormalizer makes of each code point."""
    steps = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    part = normalizers.BertNormalizer(**(steps | which))
    return {code: part.normalize_str(chr(code)) for code in ALL}


def separators():
    """Space: what BertPreTokenizer splits at and drops. Punctuation: what it makes a word of its own."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    pieces = {code: len(split(f"a{chr(code)}b")) for code in ALL}
    return {code for code in ALL if pieces[code] == 2}, {code for code in ALL if pieces[code] == 3}


def word_letters(space):
    """What hides an added token that has to be a single word; and lstrip has to take the same spaces as the rest."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.add_tokens([AddedToken("<1>", single_word=True, normalized=False),
                          AddedToken("<2>", lstrip=True, normalized=False)])  # fmt: skip
    one, two = tokenizer.token_to_id("<1>"), tokenizer.token_to_id("<2>")
    taken = {code for code in ALL if tokenizer.encode(f"a{chr(code)}<2>").offsets[-1][0] == 1}
    assert two != one and taken == space, "lstrip knows other spaces"
    return {code for code in ALL if one not in tokenizer.encode(f"{chr(code)}<1>").ids}


def orders(stripped):
    """Which marks change places when a text is decomposed: a number for each, rising with its combining class;
    classes that no kept code point has are put together, as far as there is none between them."""
    nfd = normalizers.NFD().normalize_str
    last = "\u0345"  # of the last class
    moving = [code for code in ALL if nfd(f"a{last}{chr(code)}") != f"a{last}{nfd(chr(code))}"] + [ord(last)]

    def before(one, other):
        """Whether `one` moves to the left of `other`."""
        return nfd(f"a{chr(other)}{chr(one)}") != f"a{nfd(chr(other))}{nfd(chr(one))}"

    def compare(one, other):
        return before(other, one) - before(one, other)

    classes = []
    for code in sorted((code for code in moving if stripped[code]), key=cmp_to_key(compare)):
        if not classes or before(classes[-1], code):
            classes.append(code)
    result = {}
    for code in moving:
        below = sum(before(other, code) for other in classes)
        equal = any(not compare(code, other) for other in classes)
        result[code] = 2 * below + 1 + equal
    assert 0 < max(result.values()) < 1 << (FIRST_SHIFT - ORDER_SHIFT)
    return result


def word_kinds():
    """What GPT-2's pattern takes each code point for. All of them in a row fall into words of one kind each; which one, the
    first of a word tells, beside a letter, a digit or a mark. White space stands together with none of these."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    kinds = {}
    for _, (first, last) in split("".join(map(chr, ALL))):
        first += ALL[first] == ord(" ") and last - first > 1  # it goes with the word after it
        found = [kind for kind, like in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")) if len(split(f"{like}{chr(ALL[first])}")) == 1]
        assert len(found) <= 1
        kinds |= dict.fromkeys(ALL[first:last], found[0]) if found else {}
    return kinds


def lower_rows(lower):
    """{first, last, step, difference}: each step-th code point from first to last."""
    changed = sorted(code for code in ALL if lower[code] != chr(code))
    assert [code for code in changed if len(lower[code]) > 1] == [0x130] and lower[0x130] == "i\u0307"
    rows = []
    for code in changed:
        if code == 0x130:
            continue
        difference = ord(lower[code]) - code
        if rows:
            first, last, step, same = rows[-1]
            if same == difference and (code - last == step or (first == last and code - last <= 2)):
                rows[-1] = [first, code, code - last, same]
                continue
        rows.append([code, code, 1, difference])
    return rows


def decompositions(stripped, order):
    """Blocks {first, last, where its row begins}, a row of targets, and those that are longer than one code point."""
    changed = sorted(code for code in ALL if stripped[code] not in ("", chr(code)) and code not in HANGUL)
    blocks, targets, longer = [], [], []
    for code in changed:
        if not blocks or blocks[-1][1] + 1 != code:
            blocks.append([code, code, len(targets)])
        blocks[-1][1] = code
        text = [ord(letter) for letter in stripped[code]]
        moving = [letter in order for letter in text]
        assert code not in order and not moving[0] and moving == sorted(moving), "marks do not come last"
        if len(text) > 1:
            assert len(text) <= 3
            targets.append(LONGER + len(longer))
            longer += [len(text), *text]
        else:
            targets += text
    for code in HANGUL:
        index = code - HANGUL[0]
        tail = [0x11A7 + index % 28] if index % 28 else []
        text = "".join(map(chr, [0x1100 + index // 588, 0x1161 + index % 588 // 28, *tail]))
        assert stripped[code] == text
    return blocks, targets, longer


def lines(items):
    """Items one after another, in lines that are not too long."""
    result, line = [], " "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            result.append(line)
            line = " "
        line += f" {item},"
    return "\n".join([*result, line])


def table():
    assert tokenizers.__version__ == EXPECTED, f"tokenizers {tokenizers.__version__}, expected {EXPECTED}"
    clean, chinese = asked(clean_text=True), asked(handle_chinese_chars=True)
    stripped, lower = asked(strip_accents=True), asked(lowercase=True)
    space, punctuation = separators()
    control = {code for code in ALL if not clean[code]}
    assert all(clean[code] == (" " if code in space else chr(code)) for code in ALL if code not in control)
    assert all(chinese[code] in (chr(code), f" {chr(code)} ") for code in ALL)
    sets = {CONTROL: control, SPACE: space, PUNCTUATION: punctuation, WORD: word_letters(space),
            MARK: {code for code in ALL if not stripped[code]},
            CHINESE: {code for code in ALL if len(chinese[code]) == 3}}  # fmt: skip
    order = orders(stripped)
    runs, before = [], None
    for code in ALL:
        value = sum(flag for flag, members in sets.items() if code in members) | order.get(code, 0) << ORDER_SHIFT
        if value != before:
            runs.append(code << FIRST_SHIFT | value)
            before = value
    kinds, kind_runs = word_kinds(), []
    assert {code for code in ALL if code not in kinds} == space, "white space of GPT-2's pattern is another"
    for code in ALL:
        kind = kinds.get(code, WHITE)
        if not kind_runs or kind != kind_runs[-1] & (1 << KIND_BITS) - 1:
            kind_runs.append(code << KIND_BITS | kind)
    # A look-up has to give what was put in.
    for code in ALL[::97]:
        run = runs[bisect_right(runs, code << FIRST_SHIFT | (1 << FIRST_SHIFT) - 1) - 1]
        assert bool(run & SPACE) == (code in space) and bool(run & MARK) == (code in sets[MARK])
    lower_table = [f"{{{first:#x}, {last:#x}, {step}, {difference}}}" for first, last, step, difference in lower_rows(lower)]
    blocks, targets, longer = decompositions(stripped, order)
    return f"""#pragma once
// What is known of each code point, as tests/text/unicode_table.py has asked it of Hugging Face's tokenizers {EXPECTED}.
// Written by that program: change it there.
// clang-format off

#include "lora/abi.hpp"

#include <cstdint>

namespace lora::inline LORA_ABI::detail::unicode {{

/// Properties of a code point, as bits.
enum : std::uint32_t {{
  control = {CONTROL},      // dropped by clean_text
  space = {SPACE},
  punctuation = {PUNCTUATION},  // a word of its own
  mark = {MARK},         // dropped by strip_accents
  chinese = {CHINESE},     // put between spaces by handle_chinese_chars
  word = {WORD},        // hides an added token beside it that is a single word
}};
/// Above them: 0, or the place of a mark among the marks after one letter, which decomposition sorts.
inline constexpr int order_shift = {ORDER_SHIFT};
/// Above that: the first code point of a run with these properties; it ends where the next begins.
inline constexpr int first_shift = {FIRST_SHIFT};

inline constexpr std::uint32_t runs[] = {{
{lines(f"{run:#x}" for run in runs)}
}};

/// What GPT-2's words are made of: letters, numbers, or neither; white space is between them.
enum : std::uint32_t {{ other = {OTHER}, letter = {LETTER}, number = {NUMBER}, white = {WHITE} }};
/// Above the kind: the first code point of a run of it; it ends where the next begins.
inline constexpr int kind_bits = {KIND_BITS};
inline constexpr std::uint32_t kinds[] = {{
{lines(f"{run:#x}" for run in kind_runs)}
}};

/// lowercase: adds `difference` to each step-th code point from first to last. (U+0130 alone becomes two.)
struct Lower {{
  std::uint32_t first, last, step;
  std::int32_t difference;
}};
inline constexpr Lower lower[] = {{
{lines(lower_table)}
}};

/// strip_accents: what is left of a code point once it is decomposed and its marks are dropped; without Hangul.
struct Block {{
  std::uint32_t first, last, begin;
}};
inline constexpr Block blocks[] = {{
{lines(f"{{{first:#x}, {last:#x}, {begin}}}" for first, last, begin in blocks)}
}};
/// One code point; or, from {LONGER:#x} on, where in `longer` their number and they themselves are.
inline constexpr std::uint32_t targets[] = {{
{lines(f"{target:#x}" for target in targets)}
}};
inline constexpr std::uint32_t longer_from = {LONGER:#x};
inline constexpr std::uint32_t longer[] = {{
{lines(f"{value:#x}" for value in longer)}
}};

}}  // namespace lora::inline LORA_ABI::detail::unicode
"""


if __name__ == "__main__":
    text = table()
    if "--check" in sys.argv:
        if OUT.read_text(encoding="utf-8") != text:
            sys.exit(f"{OUT.name} is not what {Path(__file__).name} writes with tokenizers {EXPECTED}")
        print(f"{OUT.name}: {len(text)} bytes, as tokenizers {EXPECTED} answers")
    else:
        OUT.write_text(text, encoding="utf-8")
