#!/usr/bin/env python3
"""Principal components against scikit-learn's, on the digits and on random data.

    pca_oracle.py --program PROGRAM [--count 200] [--seed 1]

PROGRAM is oracle/pca.cpp. In double, everything must agree to 1e-10: relative to the largest standard deviation what
has the data's size, absolutely what has not. Components are compared up to their sign, and those only that are
determined: with variance (1e-4 of the largest deviation) and without an equal one (1e-4 apart). Three pixels of the
digits are constant. The randomized method is asked about data of exactly the rank that it looks for. Ends with status
1 after any failure.
"""

import argparse
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

ROOT = Path(__file__).resolve().parent.parent.parent
TOLERANCE = 1e-10


def digits():
    """(samples, pixels), from the example's own file."""
    lines = (ROOT / "examples" / "data" / "optdigits.txt").read_text().splitlines()
    return np.array([["0123456789ABCDEFG".index(c) / 16 for c in line[:64]] for line in lines])


def cases(count, seed):
    """Name, data (samples, features), rank, whether randomized."""
    X = digits()
    for rank in (1, 2, 16, 61, 64):
        yield "digits", X, rank, False
    yield "digits, few", X[:40], 30, False
    rng = np.random.default_rng(seed)
    for k in range(count):
        samples, features = rng.integers(2, 120), rng.integers(1, 60)
        rank = int(rng.integers(1, min(samples, features) + 1))
        X = rng.standard_normal((samples, features)) * 0.8 ** np.arange(features) + 3 * rng.standard_normal(features)
        if k % 3 == 2:
            rank = int(rng.integers(1, min(samples - 1, features) + 1))
            X = rng.standard_normal((samples, rank)) @ rng.standard_normal((rank, features)) + 5
        # not far smaller: scikit-learn takes deviations below 2e-16 for none when it whitens
        yield "random", X * rng.choice([1.0, 1e-8, 1e12]), rank, k % 3 == 2


def judge(X, rank, mean, C, variance, ratio, Z, white, back, white_back):
    """What is wrong with a result, as a list of texts. C (features, rank), Z and white (samples, rank)."""
    wrong = []
    judged = PCA(rank, svd_solver="full").fit(X)
    size = np.sqrt(judged.explained_variance_[0])
    # what rounding alone does to the centered data is out of proportion where the mean is far larger than the deviation
    size = max(size, 1e-2 * np.abs(X).max())

    def same(name, given, expected, scale):
        difference = np.abs(given - expected).max(initial=0)
        if not difference <= TOLERANCE * scale:
            wrong.append(f"{name} differs by {difference / scale:.1e}")

    same("mean", mean, judged.mean_, size)
    same("explained variance", variance, judged.explained_variance_, size**2)
    same("its ratio", ratio, judged.explained_variance_ratio_, 1)
    same("inverse_transform", back, judged.inverse_transform(judged.transform(X)), size)
    if not np.abs(C.T @ C - np.eye(rank)).max() <= TOLERANCE:
        wrong.append("components are not orthonormal")
    all_deviations = np.sqrt(PCA(svd_solver="full").fit(X).explained_variance_)
    gaps = np.abs(all_deviations[:, None] - all_deviations) + np.diag(np.full(all_deviations.size, np.inf))
    determined = (all_deviations > 1e-4 * size) & (gaps.min(1, initial=np.inf) > 1e-4 * size)
    determined = determined[:rank]
    signs = np.where((C.T * judged.components_).sum(1) < 0, -1.0, 1.0)
    same("components", (C * signs).T[determined], judged.components_[determined], 1)
    same("transform", (Z * signs)[:, determined], judged.transform(X)[:, determined], size)
    judged_white = PCA(rank, svd_solver="full", whiten=True).fit(X)
    # the smallest deviation that is left multiplies what rounding does to the data
    smallest = all_deviations[:rank][determined].min(initial=size)
    same("whiten", (white * signs)[:, determined], judged_white.transform(X)[:, determined], size / smallest)
    same("inverse_whiten", white_back, judged_white.inverse_transform(judged_white.transform(X)), size)
    return wrong, int(determined.sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    given = list(cases(options.count, options.seed))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with open(folder / "input", "wb") as file:
            for _, X, rank, randomized in given:
                head = struct.pack("<4q", randomized, X.shape[1], X.shape[0], rank)
                file.write(head + np.ascontiguousarray(X).tobytes())
        subprocess.run([options.program, folder / "input", folder / "output"], check=True)
        data = np.fromfile(folder / "output")
    failures = compared = at = 0
    for name, X, rank, randomized in given:
        samples, features = X.shape
        shapes = ((features, 1), (features, rank), (rank, 1), (rank, 1), (rank, samples), (rank, samples),
                  (features, samples), (features, samples))
        parts = []
        for rows, cols in shapes:
            parts.append(data[at : at + rows * cols].reshape((rows, cols), order="F"))
            at += rows * cols
        mean, C, variance, ratio, Z, white, back, white_back = parts
        wrong, determined = judge(X, rank, mean[:, 0], C, variance[:, 0], ratio[:, 0], Z.T, white.T, back.T,
                                  white_back.T)
        compared += determined
        for text in wrong:
            print(f"{name}, {samples} samples of {features} features, rank {rank}"
                  f"{', randomized' if randomized else ''}: {text}")
            failures += 1
    print(f"{len(given)} sets of data, {compared} components compared, {failures} failures")
    return failures > 0 or at != data.size


if __name__ == "__main__":
    sys.exit(main())
