#!/usr/bin/env python3
"""The truncated SVD against LAPACK (through NumPy) on matrices of thirteen kinds on which SVDs are known to fail.

    svd_oracle.py --program PROGRAM [--count 2000] [--seed 1]

PROGRAM is oracle/truncate.cpp. For each scalar, `count` matrices of random sizes from 1 x 1 to 96 x 96 and a random
rank. A failure is: a program that crashes, a result that is not verified, factors that are not orthonormal, a
certificate that differs from the error of the factors, an error above LAPACK's optimum; the tolerance is 1e-12 (double)
or 1e-5 (float) of the matrix's Frobenius norm. Every fourth matrix goes to the randomized method, which must keep its
certificate and its spectral bound. Ends with status 1 after any failure.
"""

import argparse
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def signs(rng, *shape):
    return rng.integers(0, 2, shape) * 2.0 - 1.0


KINDS = {
    "normal": lambda rng, m, n: rng.standard_normal((m, n)),
    "low rank": lambda rng, m, n: rng.standard_normal((m, max(1, min(m, n) // 3)))
    @ rng.standard_normal((max(1, min(m, n) // 3), n)),
    "rank 1": lambda rng, m, n: rng.standard_normal((m, 1)) @ rng.standard_normal((1, n)),
    "product of rank 4": lambda rng, m, n: rng.standard_normal((m, 4)) @ rng.standard_normal((4, n)),
    "zero": lambda rng, m, n: np.zeros((m, n)),
    "identity": lambda rng, m, n: np.eye(m, n),
    "repeated columns": lambda rng, m, n: np.repeat(rng.standard_normal((m, (n + 1) // 2)), 2, axis=1)[:, :n],
    "ones": lambda rng, m, n: np.full((m, n), rng.choice([1.0, 0.1, -3.0])),
    "signs of rank 1": lambda rng, m, n: signs(rng, m, 1) @ signs(rng, 1, n),
    "graded": lambda rng, m, n: rng.standard_normal((m, n)) * 10.0 ** (-0.3 * np.arange(n)),
    "scaled": lambda rng, m, n: rng.standard_normal((m, n)) * rng.choice([1e-30, 1e18]),
    "sparse": lambda rng, m, n: rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.1),
    "one row": lambda rng, m, n: rng.standard_normal((1, n)),
}


def cases(count, is_float, seed):
    rng = np.random.default_rng(seed)
    for k in range(count):
        kind = list(KINDS)[k % len(KINDS)]
        m, n = rng.integers(1, 97, 2)
        matrix = KINDS[kind](rng, m, n)
        if is_float:
            matrix = matrix.astype(np.float32).astype(np.float64)
        if rng.random() < 0.5:
            matrix = matrix.T
        yield kind, np.asfortranarray(matrix), int(rng.integers(1, min(matrix.shape) + 1)), k % 4 == 3


def judge(A, rank, randomized, tolerance, converged, U, sigma, V, certificate):
    """What is wrong with a result, as a list of texts."""
    frobenius, spectral, norm = certificate
    scale = np.abs(A).max() or 1.0
    E = A / scale - (U * (sigma / scale)) @ V.T
    total = np.linalg.norm(A / scale)
    tail = np.linalg.svd(A / scale, compute_uv=False)[rank:]
    error = np.linalg.norm(E)
    bad = lambda given, expected: not abs(given - expected) <= tolerance * total
    wrong = []
    if not converged:
        wrong.append("not verified")
    for name, Q in (("U", U), ("V", V)):
        if not np.linalg.norm(Q.T @ Q - np.eye(rank)) <= tolerance:
            wrong.append(f"{name} is not orthonormal")
    if bad(norm / scale, total):
        wrong.append(f"norm {norm}, LAPACK {total * scale}")
    if bad(frobenius / scale, error):
        wrong.append(f"certified {frobenius}, the factors' error is {error * scale}")
    if randomized:
        if not spectral / scale >= np.linalg.norm(E, 2) - tolerance * total:
            wrong.append(f"spectral bound {spectral}, the factors' error is {np.linalg.norm(E, 2) * scale}")
    else:
        if bad(error, np.linalg.norm(tail)):
            wrong.append(f"error {error * scale}, LAPACK {np.linalg.norm(tail) * scale}")
        if bad(spectral / scale, tail[0] if tail.size else 0.0):
            wrong.append(f"spectral error {spectral}, LAPACK {tail[:1] * scale}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        failures = 0
        for is_float in (True, False):
            given = list(cases(options.count, is_float, options.seed))
            with open(folder / "input", "wb") as file:
                for _, A, rank, randomized in given:
                    file.write(struct.pack("<5q", is_float, randomized, *A.shape, rank) + A.tobytes(order="F"))
            crashed = subprocess.run([options.program, folder / "input", folder / "output"]).returncode
            data = (folder / "output").read_bytes()
            at = 0
            for k, (kind, A, rank, randomized) in enumerate(given):
                m, n = A.shape
                size = 8 * (1 + (m + n + 1) * rank + 3)
                if at + size > len(data):
                    print(f"matrix {k} ({kind}, {m} x {n}, rank {rank}): the program ended with status {crashed}")
                    failures += 1
                    break
                values = np.frombuffer(data[at + 8:at + size])
                (converged,) = struct.unpack("<q", data[at:at + 8])
                at += size
                U, sigma, V, certificate = np.split(values, np.cumsum([m * rank, rank, n * rank]))
                for text in judge(A, rank, randomized, 1e-5 if is_float else 1e-12, converged,
                                  U.reshape((m, rank), order="F"), sigma, V.reshape((n, rank), order="F"), certificate):
                    print(f"matrix {k} ({kind}, {m} x {n}, rank {rank}): {text}")
                    failures += 1
            print(f"{'float' if is_float else 'double'}: {options.count} matrices, {failures} failures so far")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
