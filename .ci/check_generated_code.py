#!/usr/bin/env python3
"""That the innermost loops of the products are what include/lora/kernels/blocking.hpp counts on, in every tile of eight
sums or more: no packet goes to the stack and comes back, and there is at most one load for each multiply-add (but for
tiles one packet high, which need one more, and those of a single sample, which read a number for each multiply-add).

  .ci/check_generated_code.py [ARCH...]     as -march names them, x86-64-v3 if none; the compiler is CXX, or c++

Reads the assembly of Packed<float> and Packed<double> at -O3, and fails as well if it finds fewer than eight such tiles.
For x86-64 only: elsewhere it says so and passes.
"""
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = "#include <lora/base/packed.hpp>\ntemplate class lora::Packed<float>;\ntemplate class lora::Packed<double>;\n"
TILE = re.compile(r"\b(?:product_tile|transposed_tile|SampleTile)<(float|double), (\d+), (\d+)")


def innermost_loops(assembly):
    """Function name and instructions of each loop that contains no other."""
    for function in re.finditer(r"^(_Z\w+):", assembly, re.M):
        end = assembly.find(".cfi_endproc", function.end())
        lines = [line.split("#")[0].strip() for line in assembly[function.end():end].splitlines()]
        lines = [line for line in lines if line and (line.endswith(":") or not line.startswith("."))]
        place = {line[:-1]: k for k, line in enumerate(lines) if line.endswith(":")}
        loops = []
        for k, line in enumerate(lines):
            jump = re.match(r"j\w+\s+(\.\w+)", line)
            if jump and place.get(jump[1], k) < k:
                loops.append((place[jump[1]], k))
        for first, last in loops:
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops):
                yield function[1], lines[first:last + 1]


def check(arch, compiler, eigen):
    command = [*compiler.split(), "-std=c++20", "-O3", "-DNDEBUG", f"-march={arch}", "-I", str(ROOT / "include"), *eigen,
               "-S", "-x", "c++", "-", "-o", "-"]
    assembly = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=True).stdout
    names = sorted({name for name, _ in innermost_loops(assembly)})
    plain = dict(zip(names, subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
                     .stdout.splitlines()))
    tiles, wrong = set(), []
    for name, body in innermost_loops(assembly):
        tile = TILE.search(plain[name])
        if tile is None:
            continue
        packets = [line for line in body if re.search(r"%[xyz]mm\d", line)]
        products = [line for line in packets if line.startswith("vfmadd")]
        columns, vectors = int(tile[2]), int(tile[3])
        if not products or columns * vectors < 8:
            continue
        tiles.add(tile[0])
        stores = [line for line in packets if re.search(r",\s*-?\w*\(%[^)]*\)$", line)]
        loads = [line for line in packets if "(" in line and line not in stores]
        what = f"{arch}: {tile[0]}>: {len(products)} multiply-adds, {len(loads)} loads"
        if any(re.search(r"\(%r[sb]p", line) for line in packets):
            wrong.append(f"{what}: packets go through the stack")
        elif vectors > 1 and not tile[0].startswith("SampleTile") and len(loads) > len(products):
            wrong.append(f"{what}: more than one load a multiply-add")
    print(f"{arch}: {len(tiles)} tiles, {len(wrong)} of their loops wrong")
    if len(tiles) < 8:
        wrong.append(f"{arch}: found only {len(tiles)} tiles, expected 8 or more: the names or the assembly have changed")
    return wrong


def main():
    if platform.machine() not in ("x86_64", "AMD64"):
        print(f"Nothing to check: this is {platform.machine()}, not x86_64")
        return
    eigen = subprocess.run(["pkg-config", "--cflags", "eigen3"], capture_output=True, text=True, check=True).stdout.split()
    wrong = []
    for arch in sys.argv[1:] or ["x86-64-v3"]:
        wrong += check(arch, os.environ.get("CXX") or "c++", eigen)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
