#!/usr/bin/env python3
"""Non-negative factorization of the handwritten digits, k = 16, against scikit-learn from the same starts.

    nmf_oracle.py --program PROGRAM [--starts 20] [--rounds 5] [--no-time]

PROGRAM is oracle/nmf.cpp. Times mean something if it is optimized, without assertions and for this processor (-O3 -DNDEBUG
-march=native), since numpy chooses its instructions when it runs.
X (64, 1797) is examples/data/optdigits.txt over 16, in double. Starts: scikit-learn's NNDSVD, then random ones; for the
divergence NNDSVD with zeros filled, as scikit-learn cannot leave zero. Both get tolerance 1e-4 and 200 iterations at most.

A failure is any of:
  - an entry of W or H below zero, or a loss that differs from scikit-learn's evaluation of W and H by 1e-9 of it;
  - plain HALS (sweeps = 1), which goes the way of scikit-learn's coordinate descent: a loss above 1 + 1e-6 of its loss;
  - the default, which from most starts ends in another local minimum than scikit-learn, a better or a worse one: a mean
    over all starts of loss over scikit-learn's loss above 1;
  - one of these slower than scikit-learn, one thread each, by the medians of `rounds` interleaved runs from NNDSVD. For the
    divergence, where scikit-learn stops by another criterion (a small decrease of the loss), our time is that to a loss no
    higher than scikit-learn's final one; the time of all our iterations is printed beside it.
Ends with status 1 after any failure. Needs numpy and scikit-learn.
"""

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is loaded

import numpy as np
import sklearn
from sklearn.decomposition import non_negative_factorization
from sklearn.decomposition._nmf import _beta_divergence, _initialize_nmf

ROOT = Path(__file__).resolve().parent.parent.parent
RANK, TOLERANCE, ITERATIONS = 16, 1e-4, 200
LOSSES = {"frobenius": "cd", "kullback-leibler": "mu"}


def digits():
    lines = (ROOT / "examples" / "data" / "optdigits.txt").read_text().splitlines()
    return np.array([["0123456789ABCDEFG".index(pixel) for pixel in line[:64]] for line in lines], float).T / 16


class Ours:
    """The program of oracle/nmf.cpp, kept running, so that runs can alternate with scikit-learn's."""

    def __init__(self, program, folder):
        for name in ("requests", "results"):
            (folder / name).unlink(missing_ok=True)
            os.mkfifo(folder / name)
        self.process = subprocess.Popen([program, folder / "requests", folder / "results"])
        self.requests = open(folder / "requests", "wb")
        self.results = open(folder / "results", "rb")

    def run(self, X, loss, W, H, sweeps=0, iterations=ITERATIONS):
        head = struct.pack("<7qd", 0, list(LOSSES).index(loss), sweeps, iterations, *X.shape, RANK, TOLERANCE)
        self.requests.write(head + b"".join(np.asarray(M, float).tobytes(order="F") for M in (X, W, H)))
        self.requests.flush()
        iterations, converged, value, residual, seconds = struct.unpack("<2q3d", self.results.read(40))
        factors = [np.frombuffer(self.results.read(8 * M.size)).reshape(M.shape, order="F") for M in (W, H)]
        return {"loss": value, "iterations": iterations, "converged": bool(converged), "residual": residual,
                "seconds": seconds, "W": factors[0], "H": factors[1]}

    def close(self):
        self.requests.close()
        self.results.close()
        return self.process.wait()


def theirs(X, loss, W, H):
    W, H = W.copy(), H.copy()
    begin = time.perf_counter()
    W, H, iterations = non_negative_factorization(X, W=W, H=H, n_components=RANK, init="custom", solver=LOSSES[loss],
                                                  beta_loss=loss, tol=TOLERANCE, max_iter=ITERATIONS)
    seconds = time.perf_counter() - begin
    return {"loss": _beta_divergence(X, W, H, loss), "iterations": iterations, "seconds": seconds}


def starts(X, loss, count):
    filled = "nndsvda" if loss == "kullback-leibler" else "nndsvd"
    return [_initialize_nmf(X, RANK, init="random" if seed else filled, random_state=seed) for seed in range(count)]


def compare(ours, X, loss, sweeps, given, rounds, timed):
    """What is wrong, as a list of texts."""
    wrong = []
    ratios = []
    for seed, (W, H) in enumerate(given):
        a, b = ours.run(X, loss, W, H, sweeps), theirs(X, loss, W, H)
        evaluated = _beta_divergence(X, a["W"], a["H"], loss)
        if min(a["W"].min(), a["H"].min()) < 0:
            wrong.append(f"start {seed}: a negative entry")
        if not abs(a["loss"] - evaluated) <= 1e-9 * evaluated:
            wrong.append(f"start {seed}: loss {a['loss']}, scikit-learn evaluates it to {evaluated}")
        ratios.append(a["loss"] / b["loss"])
        if seed == 0:
            print(f"  from NNDSVD: loss {a['loss']:.3f} after {a['iterations']} iterations (residual {a['residual']:.1e}), "
                  f"scikit-learn {b['loss']:.3f} after {b['iterations']}")
    ratios = np.array(ratios)
    print(f"  loss over scikit-learn's, {len(given)} starts: mean {ratios.mean():.6f}, least {ratios.min():.6f}, "
          f"largest {ratios.max():.6f}, at most 1 in {np.count_nonzero(ratios <= 1 + 1e-6)}")
    if not ratios.mean() <= 1 + 1e-6:
        wrong.append(f"mean loss {ratios.mean()} of scikit-learn's")
    if sweeps == 1 and not ratios.max() <= 1 + 1e-6:
        wrong.append(f"loss {ratios.max()} of scikit-learn's from one start")
    if timed:
        W, H = given[0]
        enough = ITERATIONS
        if loss == "kullback-leibler":
            reached = theirs(X, loss, W, H)["loss"]
            enough = next((n for n in range(1, ITERATIONS) if ours.run(X, loss, W, H, sweeps, n)["loss"] <= reached),
                          ITERATIONS)
        times = np.array([(ours.run(X, loss, W, H, sweeps, enough)["seconds"], ours.run(X, loss, W, H, sweeps)["seconds"],
                           theirs(X, loss, W, H)["seconds"]) for _ in range(rounds)])
        mine, every, other = np.median(times, axis=0)
        print(f"  time: {1e3 * mine:.1f} ms for {enough} iterations, scikit-learn {1e3 * other:.1f} ms, ratio "
              f"{mine / other:.2f}; all iterations {1e3 * every:.1f} ms, ratio {every / other:.2f}")
        if not mine <= other:
            wrong.append(f"slower than scikit-learn: {1e3 * mine:.1f} ms against {1e3 * other:.1f} ms")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-time", action="store_true", help="compare losses only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns when it stops at the last iteration
    with tempfile.TemporaryDirectory() as temporary:
        X = digits()
        ours = Ours(options.program, Path(temporary))
        failures = 0
        print(f"NMF of the digits {X.shape[0]} x {X.shape[1]}, k = {RANK}, and scikit-learn {sklearn.__version__}'s")
        for loss, sweeps, name in (("frobenius", 1, "plain HALS"), ("frobenius", 0, "default"),
                                   ("kullback-leibler", 0, "default")):
            print(f"{loss}, {name}:")
            for text in compare(ours, X, loss, sweeps, starts(X, loss, options.starts), options.rounds,
                                not options.no_time):
                print(f"  FAILED: {text}")
                failures += 1
        if ours.close() != 0:
            print("the program failed")
            failures += 1
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
