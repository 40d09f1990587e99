#!/usr/bin/env python3
"""Patterns for the names of layers against Python's re.fullmatch, on random patterns and names.

    pattern_oracle.py --program build/.../oracle_pattern [--count 200000] [--seed 1]

A failure is a pair that one matches and the other does not, or a pattern that only one reads. Not compared: possessive
quantifiers, which Python reads since 3.11 and we refuse; letters beyond ASCII, which we do not know; a group's name given twice, which does not trouble us; "\\B"
on an empty name, which Python has changed its mind about. Ends with status 1 after any failure.
"""

import argparse
import random
import re
import subprocess
import sys
import warnings

PIECES = (
    "a b . \\. _ 1 ( (?: ) | * + ? *? ?? {2} {1,2} {,1} {1,} [ab] [^a] [a-c1] []a] \\d \\w \\W \\S ^ $ \\b \\B \\A \\Z "
    "(?= (?! (?P<n> .* { } - \\D \\s [^\\d] \u00fc"
).split()


def pair(rng):
    pattern = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 9)))
    if rng.random() < 0.7:
        pattern += ")" * max(0, pattern.count("(") - pattern.count(")"))
    letters = "aab.1_c-" if rng.random() < 0.8 else "a.1\u00fc\u20ac\u0663\u3000\U0001f600"
    return pattern, "".join(rng.choice(letters) for _ in range(rng.randint(0, 6)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="tests/model/oracle/pattern.cpp, built")
    parser.add_argument("--count", type=int, default=200000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of patterns that Python means to read differently one day

    rng = random.Random(options.seed)
    pairs = [pair(rng) for _ in range(options.count)]
    text = "".join(f"{pattern}\n{name}\n" for pattern, name in pairs)
    run = subprocess.run([options.program], input=text, capture_output=True, encoding="utf-8", check=True)
    answers = run.stdout.splitlines()

    assert len(answers) == len(pairs)
    counts = {"matches": 0, "does not": 0, "refused": 0}
    failures = 0
    for (pattern, name), answer in zip(pairs, answers):
        try:
            expected = "1" if re.fullmatch(pattern, name) else "0"
        except re.error:
            expected = "refused"
        counts[{"1": "matches", "0": "does not"}.get(expected, expected)] += 1
        if "possessive" in answer or "are letters" in answer or pattern.count("(?P<") > 1 or (name == "" and "\\B" in pattern):
            continue
        if expected != (answer if answer in ("0", "1") else "refused"):
            failures += 1
            print(f"{pattern!r} and {name!r}: Python says {expected}, we say {answer}")
    print(f"{len(pairs)} patterns, by Python: {counts}; {failures} differences")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
