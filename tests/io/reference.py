#!/usr/bin/env python3
"""Files that the reference implementation of safetensors writes, for tests/io/reference_test.cpp, which reads each, writes its
tensors again in another order, and wants the same bytes.

  reference.py --fixtures                the committed files, in the folder fixtures beside this script
  reference.py --test PROGRAM [--count N] [--seed N]
      N random files in a folder of their own, on which PROGRAM (test_io) is run; and the reverse: the reference has to give
      the verdict of PROGRAM on damaged files wherever PROGRAM accepts them.

Needs the package safetensors 0.8 or newer, and nothing else."""

import argparse
import ctypes
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors
from safetensors import TensorSpec, deserialize, serialize

FIXTURES = Path(__file__).resolve().parent / "fixtures"

# What TensorSpec calls them, and bits of an element. (F6 cannot be given from Python.)
DTYPES = {
    "bool": 8, "uint8": 8, "int8": 8, "float8_e5m2": 8, "float8_e4m3fn": 8, "float8_e8m0fnu": 8, "float8_e4m3fnuz": 8,
    "float8_e5m2fnuz": 8, "int16": 16, "uint16": 16, "float16": 16, "bfloat16": 16, "int32": 32, "uint32": 32,
    "float32": 32, "complex64": 64, "float64": 64, "int64": 64, "uint64": 64,
}  # fmt: skip
PACKED = "float4_e2m1fn_x2"  # two to a byte; its shape is given in bytes


def product(shape):
    result = 1
    for dimension in shape:
        result *= dimension
    return result


def written(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    specs, alive = {}, []
    for name, (dtype, shape, data) in tensors.items():
        buffer = ctypes.create_string_buffer(bytes(data), max(len(data), 1))
        alive.append(buffer)
        specs[name] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffer), data_len=len(data))
    return bytes(serialize(specs, metadata))


def counting(size):
    return bytes(i % 251 for i in range(size))


def tensor(dtype, shape):
    size = product(shape) if dtype == PACKED else product(shape) * DTYPES[dtype] // 8
    return dtype, list(shape), counting(size)


def fixtures():
    every = {f"t.{dtype}": tensor(dtype, [2, 3]) for dtype in DTYPES}
    every["t.f4"] = tensor(PACKED, [2, 1])
    odd = "q\"\\/\b\f\n\r\t\x00\x01\x1f\x7f\u00e9\u2028\U0001f600"
    return {
        # The reference's own vectors.
        "int32_zeros": written({"test": ("int32", [2, 2], bytes(16))}),
        "two_types": written({"test2": ("float16", [2, 2], bytes(8)), "test1": ("int32", [2, 2], bytes(16))}),
        "with_metadata": written({"test": ("int32", [2, 2], bytes(16))}, {"framework": "pt"}),
        "empty": written({}),
        "empty_metadata": written({}, {"format": "pt"}),
        "every_dtype": written(every, {"format": "pt"}),
        "shapes": written({
            "scalar": tensor("float32", []), "none": tensor("float32", [2, 0]), "none_between": tensor("float32", [0]),
            "one": tensor("float32", [1, 1, 1, 1, 1]), "vector": tensor("float32", [5]), "matrix": tensor("float32", [3, 2]),
            "odd_bytes": tensor("uint8", [3]),
        }),  # fmt: skip
        "names": written({name: tensor("uint8", [1]) for name in
                          ["b", "a", "", "B", "a.b", "a-b", "ab", "\u00e9", "z" * 300, odd]}, {odd: odd}),  # fmt: skip
        "adapter": written({
            "base_model.model.fc1.lora_A.weight": tensor("float32", [2, 4]),
            "base_model.model.fc1.lora_B.weight": tensor("float32", [3, 2]),
            "base_model.model.fc10.lora_A.weight": tensor("float32", [2, 3]),
            "base_model.model.fc10.lora_B.weight": tensor("float32", [4, 2]),
        }, {"format": "pt"}),  # fmt: skip
    }


def random_file(rng):
    letters = "abcXYZ019._-/ \"\\\n\t\x01\x7f\u00e9\u4e2d\U0001f600"
    text = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
    tensors = {}
    for _ in range(rng.randrange(8)):
        name = text()
        if name != "__metadata__":
            tensors[name] = tensor(rng.choice([*DTYPES, PACKED]), [rng.randrange(8) for _ in range(rng.randrange(1, 5))])
    return written(tensors, {text(): text()} if rng.random() < 0.5 else None)


def damaged(file, rng):
    data = bytearray(file)
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def accepts(data):
    try:
        deserialize(data)
        return True
    except Exception:  # its own error, or one of Python's about a value
        return False


def test(program, count, seed):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            Path(folder, f"{i}.safetensors").write_bytes(random_file(rng))
        environment = dict(os.environ, LORA_REFERENCE_FILES=folder)
        subprocess.run([program, "*reference*"], env=environment, check=True, stdout=subprocess.DEVNULL)
        print(f"{count} random files of safetensors {safetensors.__version__} written again, byte for byte")

    sources = [data for data in fixtures().values() if len(data) < 1000]
    with tempfile.TemporaryDirectory() as folder:
        files = [damaged(rng.choice(sources), rng) for _ in range(20 * count)]
        for i, data in enumerate(files):
            Path(folder, f"{i}.bad").write_bytes(data)
        verdicts = Path(folder, "accepted")
        environment = dict(os.environ, LORA_DAMAGED_FILES=folder, LORA_ACCEPTED=str(verdicts))
        subprocess.run([program, "*verdict*"], env=environment, check=True, stdout=subprocess.DEVNULL)
        accepted = {int(line) for line in verdicts.read_text().split()}
    wrong = [i for i in accepted if not accepts(files[i])]
    stricter = [i for i in range(len(files)) if i not in accepted and accepts(files[i])]
    print(f"{len(files)} damaged files: {len(accepted)} accepted, {len(wrong)} of them refused by the reference; "
          f"{len(stricter)} that it accepts refused")  # fmt: skip
    for i in (wrong + stricter)[:5]:
        print(files[i])
    return not wrong  # to be stricter is allowed, for a name that is there twice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", action="store_true")
    parser.add_argument("--test", metavar="PROGRAM")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.fixtures:
        FIXTURES.mkdir(exist_ok=True)
        for name, data in fixtures().items():
            (FIXTURES / f"{name}.safetensors").write_bytes(data)
    if arguments.test and not test(arguments.test, arguments.count, arguments.seed):
        sys.exit(1)


if __name__ == "__main__":
    main()
