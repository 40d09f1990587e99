"""Which blocking of the packed products is fastest here: compiles the kernels once for each candidate of the table in
include/lora/kernels/blocking.hpp and runs all of them in turns.

  benchmarks/run.sh blocking [CANDIDATE...] [--double] [--quick] [--out DIR]
  CXX=clang++ LORA_ARCH=x86-64-v3 benchmarks/run.sh blocking 3,4,4,3 2,6,4,3
  benchmarks/run.sh blocking nc=256 nc=512,kc=392 --sizes 2048x512 4096x512

A candidate is the first numbers of a row of that table: mr_packets,nr,transposed_columns,transposed_packets, and more of
them if they are to differ from what is there; or other values for constants of that file, by name. Without any, those
numbers that fit the registers. Prints, of the peak measured in
the same turn, the median share of each product, and the row of the table that has the best mean. One thread.
"""
import argparse
import ctypes
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "include/lora/kernels/blocking.hpp"
ROW = re.compile(r"(RegisterBlocking (blocking_of_\w+)\{)([^}]*)(\})")
CONSTANT = re.compile(r"(static constexpr (?:Index|int) (\w+) = )([^;]*)(;)")
CANDIDATES = {  # by name of the row: what fits its registers
    "blocking_of_32_registers": ["2,8,8,2", "2,12,8,2", "3,8,8,2", "4,6,8,2", "2,10,8,2", "2,8,8,3"],
    "blocking_of_16_registers": ["2,6,4,3", "3,4,4,3", "2,5,4,3", "4,3,4,3", "2,4,4,2", "3,4,4,2"],
    "blocking_of_sse2": ["6,2,4,2", "3,4,4,2", "4,3,4,2", "2,6,4,2", "4,2,4,2", "6,2,4,3"],
}


def row_in_use(registers, tight):
    return "blocking_of_32_registers" if registers >= 32 else "blocking_of_sse2" if tight else "blocking_of_16_registers"


class Kernels:
    """The kernels compiled with `numbers` in place of the first numbers of every row, and `constants` by name."""

    def __init__(self, name, numbers, constants, folder, compiler, eigen, flags):
        self.name = name
        self.rows = {}
        unknown = set(constants) - {found[1] for found in CONSTANT.findall(TABLE.read_text())}
        if unknown:
            sys.exit(f'{name}: there is no constant "{unknown.pop()}" in {TABLE.name}')

        def with_value(match):
            return match[1] + constants.get(match[2], match[3]) + match[4]

        def replaced(match):
            given = [part.strip() for part in match[3].split(",")]
            self.rows[match[2]] = ", ".join(numbers + given[len(numbers):])
            return match[1] + self.rows[match[2]] + match[4]

        there = folder / re.sub(r"\W", "_", name)
        changed = there / "lora/kernels/blocking.hpp"
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(CONSTANT.sub(with_value, ROW.sub(replaced, TABLE.read_text())))
        self.library = there / "kernels.so"
        # Found before the library's own header, because it stands first. g++ would give all libraries the same statics.
        command = [*compiler.split(), "-std=c++20", "-O3", "-DNDEBUG", "-shared", "-fPIC", *flags, "-I", str(there),
                   "-I", str(ROOT / "include"), "-I", str(ROOT), *eigen,
                   str(ROOT / "benchmarks/blocking/kernels.cpp"), "-o", str(self.library)]
        self.compiling = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def load(self):
        """Whether it compiled: not every blocking fits the kernels."""
        output, _ = self.compiling.communicate()
        if self.compiling.returncode != 0:
            why = re.search(r"(?:static assertion failed|static_assert failed)[^\n]*", output)
            print(f"{self.name}: does not compile: {why[0] if why else output[-500:]}", file=sys.stderr)
            return False
        self.functions = ctypes.CDLL(str(self.library))
        self.functions.peak.restype = self.functions.seconds.restype = ctypes.c_double
        return True


def main():
    parser = argparse.ArgumentParser(prog="benchmarks/run.sh blocking", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", metavar="CANDIDATE")
    parser.add_argument("--double", action="store_true", help="double instead of float")
    parser.add_argument("--quick", action="store_true", help="one size and one turn, to see that everything runs")
    parser.add_argument("--sizes", nargs="+", metavar="DxN", help="W0 of D x D and N samples, if not those of the table")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/out/blocking", help="folder for blocking.json")
    parser.add_argument("--eigen", default="", help="compiler flags that find Eigen; run.sh gives them")
    chosen = parser.parse_args()
    compiler = os.environ.get("CXX", "c++")
    flags = ["-march=" + os.environ.get("LORA_ARCH", "native")]
    if chosen.double:
        flags.append("-DLORA_SWEEP_DOUBLE")
    if "clang" not in compiler:
        flags.append("-fno-gnu-unique")
    folder = ROOT / "build/blocking" / re.sub(r"\W+", "_", " ".join([compiler, *flags]))

    def compiled(name, numbers, constants):
        return Kernels(name, numbers, constants, folder, compiler, chosen.eigen.split(), flags)

    table = compiled("the table", [], {})
    if not table.load():
        sys.exit(1)
    row = row_in_use(table.functions.registers(), table.functions.is_tight())
    kernels = [table]
    wanted = chosen.candidates or CANDIDATES[row][:2 if chosen.quick else None]
    for text in wanted:
        if re.fullmatch(r"\w+=\w+(,\w+=\w+)*", text):
            one = compiled(text, [], dict(part.split("=") for part in text.split(",")))
        elif re.fullmatch(r"\d+(,\d+){3,5}", text):
            one = compiled(text, text.split(","), {})
            if one.rows[row] == table.rows[row]:
                continue
        else:
            parser.error(f'candidate "{text}" is neither four to six numbers with commas between them, nor name=value')
        if one.load():
            kernels.append(one)

    sizes = [(64, 8)] if chosen.quick else [(d, n) for d in (64, 256, 768, 1024, 2048) for n in (1, 8, 32, 128)]
    if chosen.sizes:
        sizes = [tuple(map(int, size.split("x"))) for size in chosen.sizes]
    shares, peaks = {}, []
    for turn in range(1 if chosen.quick else 9):
        for d, samples in sizes:
            for transposed in (0, 1):
                random.shuffle(kernels)
                peaks.append(table.functions.peak())
                work = 2 * d * d * samples
                calls = max(1, int(0.004 * peaks[-1] / work))
                for one in kernels:
                    share = work / one.functions.seconds(transposed, d, samples, calls) / peaks[-1]
                    shares.setdefault((one.name, transposed, d, samples), []).append(share)

    kernels.sort(key=lambda one: one is not table)
    peak = statistics.median(peaks) / 1e9
    print(f"{compiler} {' '.join(flags)}: packets of {table.functions.bytes_of_packet()} bytes, "
          f"{table.functions.registers()} registers, peak {peak:.0f} GFLOP/s. Share of the peak, in percent:\n")
    result = {"compiler": compiler, "flags": flags, "row": row, "peak_gflops": peak, "candidates": {}}
    means = {}
    for transposed, title in ((0, "y"), (1, "dx")):
        print(f"| {title} | " + " | ".join(f"{d} x {n}" for d, n in sizes) + " | mean |")
        print("|---|" + "--:|" * (len(sizes) + 1))
        for one in kernels:
            medians = [statistics.median(shares[one.name, transposed, d, n]) for d, n in sizes]
            mean = statistics.geometric_mean(medians)
            means.setdefault(one.name, []).append(mean)
            result["candidates"].setdefault(one.name, {})[title] = medians
            print(f"| {one.name} | " + " | ".join(f"{100 * value:.0f}" for value in medians) + f" | {100 * mean:.1f} |")
        print()
    best = max(kernels, key=lambda one: statistics.geometric_mean(means[one.name]))
    print(f"Best mean of both: {best.name}\n  {row}{{{best.rows[row]}}}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "blocking.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
