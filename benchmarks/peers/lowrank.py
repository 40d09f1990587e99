"""Low-rank mathematics against scikit-learn, PyTorch, NumPy and PEFT. Started by benchmarks/run.sh lowrank --peer.

Each side gets the same bytes. Every result is checked once, in double precision, before anything is timed. Errors are
those of the factors, relative to the least possible one where they are called that.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
from sklearn.decomposition import PCA, non_negative_factorization
from sklearn.decomposition._nmf import _initialize_nmf
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from harness import Library, Report, interleaved, options


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def times(ratio):
    return f"{ratio:.3g}x"


def above(ratio):
    return f"{ratio - 1:.1e}"


def rounded(value):
    return f"{value:.2e}"


def check(what, given, expected, tolerance):
    if not abs(given - expected) <= tolerance:
        sys.exit(f"{what}: {given}, expected {expected} within {tolerance}")


class Ours:
    def __init__(self, library):
        self._library = library

    def svd(self, A, rank, randomized):
        m, n = A.shape
        U, s, V = (np.empty(shape, A.dtype) for shape in ((m, rank), (rank,), (n, rank)))
        certificate = np.empty(3)
        function = self._library.truncated_svd_float if A.dtype == np.float32 else self._library.truncated_svd_double
        function(A, m, n, rank, int(randomized), U, s, V, certificate)
        return U, s, V.T, certificate

    def resize(self, B, A, rank):
        (out, old), n = B.shape, A.shape[1]
        new_B, new_A, certificate = np.empty((out, rank), B.dtype), np.empty((rank, n), A.dtype), np.empty(3)
        self._library.resize(B, A, out, n, old, rank, new_B, new_A, certificate)
        return new_B, new_A, certificate

    def combine(self, first, second, alpha, weights, rank):
        (B1, A1), (B2, A2) = first, second
        delta = np.empty((B1.shape[0], A1.shape[1]), np.float32)
        old, (first_weight, second_weight) = B1.shape[1], weights
        self._library.combine(B1, A1, B2, A2, *delta.shape, old, float(alpha), first_weight, second_weight, rank, delta)
        return delta

    def pca(self, X, rank):
        components, variance = np.empty((rank, X.shape[1])), np.empty(rank)
        self._library.pca(X, *X.shape, rank, components, variance)
        return components, variance

    def nmf(self, X, W, H, tolerance, iterations):
        """X (samples, features) as W H, which are the start."""
        W, H, summary = W.copy(), H.copy(), np.empty(3)
        self._library.nmf(X, *X.shape, H.shape[0], float(tolerance), iterations, H, W, summary)
        return W, H, summary


def error_of(A, U, s, Vt):
    return np.linalg.norm(A.astype(np.float64) - (U.astype(np.float64) * s) @ Vt.astype(np.float64))


def spectra(n, rng):
    def orthogonal():
        return np.linalg.qr(rng.standard_normal((n, n)))[0]

    i = np.arange(n)
    for name, sigma in (("geometric, 0.9^i + 1e-4", 0.9**i + 1e-4), ("power law, i^-0.5", (i + 1.0) ** -0.5)):
        yield name, np.ascontiguousarray((orthogonal() * sigma) @ orthogonal(), np.float32), sigma
    A = rng.uniform(-0.5, 0.5, (n, n)).astype(np.float32)
    yield "flat, uniform entries", A, np.linalg.svd(A.astype(np.float64), compute_uv=False)


def randomized(report, ours, quick):
    """Truncation to a rank. The peers take ten more directions than the rank, as scikit-learn does by itself, and the
    fewest power iterations with which their excess over the least error is no larger than ours, or below 1e-5."""
    rows, seen = [], {}
    for n, rank in ((256, 8),) if quick else ((1024, 8), (1024, 32), (2048, 8)):
        if n not in seen:
            seen[n] = list(spectra(n, np.random.default_rng(n)))
        for name, A, sigma in seen[n]:
            least = np.linalg.norm(sigma[rank:])
            T = torch.from_numpy(A)

            def sklearn(n_iter):
                U, s, Vt = randomized_svd(A, rank, n_iter=n_iter, random_state=0)
                return U, s, Vt

            def torch_lowrank(niter):
                U, s, V = torch.svd_lowrank(T, q=rank + 10, niter=niter)
                return U[:, :rank].numpy(), s[:rank].numpy(), V[:, :rank].T.numpy()

            *factors, certificate = ours.svd(A, rank, True)
            error = error_of(A, *factors)
            check("certified error", certificate[0], error, 1e-5 * certificate[2])
            row = {"matrix": f"{n} x {n}, {name}", "rank": rank, "our_ratio": error / least}
            functions = {"ours": lambda: ours.svd(A, rank, True)}
            for peer, function in (("sklearn", sklearn), ("torch", torch_lowrank)):
                for count in range(21):
                    torch.manual_seed(0)
                    ratio = error_of(A, *function(count)) / least
                    if ratio - 1 <= max(row["our_ratio"] - 1, 1e-5):
                        break
                row[f"{peer}_iterations"], row[f"{peer}_ratio"] = count, ratio
                functions[peer] = lambda function=function, count=count: function(count)
            functions["sklearn_default"] = lambda: randomized_svd(A, rank, random_state=0)
            seconds, _ = interleaved(functions)
            if name.startswith("flat"):
                dense, _ = interleaved({"numpy": lambda: np.linalg.svd(A, full_matrices=False)}, 3, 10)
                seconds |= dense
            row |= {f"{key}_seconds": value for key, value in seconds.items()}
            row |= {f"{key}_over_ours": value / seconds["ours"] for key, value in seconds.items() if key != "ours"}
            rows.append(row)
    report.table("randomized", {
        "matrix": ("float32 matrix", str), "rank": ("r", str), "ours_seconds": ("ours, ms", milliseconds),
        "our_ratio": ("above the least error", above),
        "sklearn_iterations": ("scikit-learn: iterations", str), "sklearn_ratio": ("above", above),
        "sklearn_over_ours": ("its time / ours", times), "sklearn_default_over_ours": ("at its defaults", times),
        "torch_iterations": ("torch.svd_lowrank: iterations", str), "torch_ratio": ("above", above),
        "torch_over_ours": ("its time / ours", times), "numpy_over_ours": ("LAPACK, dense / ours", times)}, rows)


def exact(report, ours, quick):
    rows = []
    for n in (64,) if quick else (256, 512):
        A = np.random.default_rng(n).standard_normal((n, n))
        *factors, certificate = ours.svd(A, 8, False)
        least = np.linalg.norm(np.linalg.svd(A, compute_uv=False)[8:])
        check("exact error", error_of(A, *factors), least, 1e-12 * certificate[2])
        check("certified error", certificate[0], least, 1e-12 * certificate[2])
        seconds, _ = interleaved({"ours": lambda: ours.svd(A, 8, False),
                                  "numpy": lambda: np.linalg.svd(A, full_matrices=False)}, 7, 10)
        rows.append({"matrix": f"{n} x {n}", **{f"{key}_seconds": value for key, value in seconds.items()},
                     "numpy_over_ours": seconds["numpy"] / seconds["ours"]})
    report.table("exact", {"matrix": ("float64 matrix, exact, r = 8", str), "ours_seconds": ("ours, ms", milliseconds),
                           "numpy_seconds": ("numpy.linalg.svd, ms", milliseconds),
                           "numpy_over_ours": ("its time / ours", times)}, rows)


def resize(report, ours, quick):
    n, old, new = (256, 32, 4) if quick else (4096, 256, 16)
    rng = np.random.default_rng(3)
    B = rng.uniform(-0.5, 0.5, (n, old)).astype(np.float32)
    A = rng.uniform(-0.5, 0.5, (old, n)).astype(np.float32)
    TB, TA = torch.from_numpy(B), torch.from_numpy(A)
    product = B.astype(np.float64) @ A
    # the least error, from the factors in double
    core = np.linalg.qr(B.astype(np.float64))[1] @ np.linalg.qr(A.T.astype(np.float64))[1].T
    sigma = np.linalg.svd(core, compute_uv=False)
    least, norm = np.linalg.norm(sigma[new:]), np.linalg.norm(sigma)

    def of_product(decompose):
        U, s, Vh = decompose(TB @ TA)
        return (U[:, :new] * s[:new]).numpy(), Vh[:new].numpy()

    def sketched(delta):
        U, s, V = torch.svd_lowrank(delta, q=new + 10, niter=2)
        return U, s, V.T

    functions = {"ours": lambda: ours.resize(B, A, new), "svd_lowrank": lambda: of_product(sketched),
                 "svd": lambda: of_product(lambda delta: torch.linalg.svd(delta, full_matrices=False))}
    seconds, results = interleaved({k: f for k, f in functions.items() if k != "svd"}, 7, 60)
    once, last = interleaved({"svd": functions["svd"]}, 3, 0)
    seconds, results = seconds | once, results | last
    names = {"ours": "ours: exact, no product", "svd_lowrank": "product, torch.svd_lowrank, two iterations",
             "svd": "product, torch.linalg.svd (once)"}
    rows = []
    for key, name in names.items():
        error = np.linalg.norm(product - results[key][0].astype(np.float64) @ results[key][1])
        rows.append({"method": name, "seconds": seconds[key], "over_ours": seconds[key] / seconds["ours"],
                     "ratio": error / least})
    check("certified error", results["ours"][2][0], rows[0]["ratio"] * least, 1e-5 * norm)
    check("resize, error / least", rows[0]["ratio"], 1, 1e-5)
    report.table("resize", {"method": (f"adapter {n} x {n}, rank {old} to {new}", str), "seconds": ("ms", milliseconds),
                            "over_ours": ("time / ours", times), "ratio": ("above the least error", above)}, rows)


def combine(report, ours, quick):
    """What PEFT's add_weighted_adapter makes of two adapters, and what the sum of their deltas is."""
    out, n, rank, alpha, weights = 96, 64, 8, 16, (0.7, 0.3)
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(n, out, bias=False))
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="first")
    model.add_adapter("second", config)
    layer = model.base_model.model[0]
    factors = [(layer.lora_B[name].weight.detach().numpy().copy(), layer.lora_A[name].weight.detach().numpy().copy())
               for name in ("first", "second")]
    wanted = sum(w * alpha / rank * B.astype(np.float64) @ A for w, (B, A) in zip(weights, factors))
    norm = np.linalg.norm(wanted)
    tail = np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[rank:]) / norm
    rows = []

    def add(side, method, made_rank, delta):
        rows.append({"side": side, "method": method, "rank": made_rank,
                     "error": float(np.linalg.norm(delta.astype(np.float64) - wanted) / norm)})
        return rows[-1]["error"]

    check("combine", add("ours", "combine(...)", 2 * rank, ours.combine(*factors, alpha, weights, 0)), 0, 1e-6)
    check("combine to a rank",
          add("ours", "combine(..., {.rank = 8})", rank, ours.combine(*factors, alpha, weights, rank)), tail, 1e-6)
    methods = (("cat", {}), ("svd", {}), ("linear", {}), ("ties", {"density": 1.0}), ("ties", {"density": 0.5}))
    for method, extra in methods:
        name = method + "_".join(map(str, extra.values())).replace(".", "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.add_weighted_adapter(["first", "second"], list(weights), name, combination_type=method, **extra)
        label = method + "".join(f", {key} {value}" for key, value in extra.items())
        add("PEFT", label, layer.r[name], layer.get_delta_weight(name).detach().numpy())
    report.json["combine_least_error_of_rank_8"] = tail
    report.table("combine", {
        "side": (f"0.7 and 0.3 times two adapters of rank {rank}, scale {alpha // rank}", str),
        "method": ("method", str),
        "rank": ("rank", str), "error": ("relative distance to the sum of the deltas", rounded)}, rows)


def digits():
    """The pictures of the example, (samples, pixels), and no other copy of them."""
    lines = (Path(__file__).resolve().parents[2] / "examples" / "data" / "optdigits.txt").read_text().splitlines()
    return np.array([["0123456789ABCDEFG".index(c) / 16 for c in line[:64]] for line in lines])


def components(report, ours, quick):
    X, rank = digits(), 20
    found, variance = ours.pca(X, rank)
    pca = PCA(rank, svd_solver="full").fit(X)
    signs = np.sign((found * pca.components_).sum(1))
    difference = np.abs(found * signs[:, None] - pca.components_).max()
    check("PCA", difference, 0, 1e-10)
    check("PCA, variance", np.abs(variance - pca.explained_variance_).max(), 0, 1e-10)
    seconds, _ = interleaved({"ours": lambda: ours.pca(X, rank), "full": lambda: PCA(rank, svd_solver="full").fit(X),
                              "covariance_eigh": lambda: PCA(rank, svd_solver="covariance_eigh").fit(X)})
    row = {"difference": float(difference), **{f"{key}_seconds": value for key, value in seconds.items()}}
    row |= {f"{key}_over_ours": seconds[key] / seconds["ours"] for key in ("full", "covariance_eigh")}
    report.table("pca", {"difference": (f"PCA of the digits, {rank} components: largest difference", rounded),
                         "ours_seconds": ("ours, ms", milliseconds),
                         "full_over_ours": ("scikit-learn, full / ours", times),
                         "covariance_eigh_over_ours": ("scikit-learn, by the covariance / ours", times)}, [row])


def factorization(report, ours, quick):
    """Non-negative, from the same start, to the same tolerance; either side stops by its own measure of it."""
    X, rank, tolerance, iterations = digits(), 16, 1e-4, 200
    rng = np.random.default_rng(0)
    scale = np.sqrt(X.mean() / rank)
    starts = {"NNDSVD": _initialize_nmf(X, rank, init="nndsvd", random_state=0),
              "random": tuple(scale * np.abs(rng.standard_normal(s)) for s in ((len(X), rank), (rank, X.shape[1])))}
    rows = []
    for name, (W0, H0) in starts.items():
        W0, H0 = np.ascontiguousarray(W0), np.ascontiguousarray(H0)

        def sklearn():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return non_negative_factorization(X, W0.copy(), H0.copy(), rank, init="custom", solver="cd",
                                                  tol=tolerance, max_iter=iterations)

        functions = {"ours": lambda: ours.nmf(X, W0, H0, tolerance, iterations), "sklearn": sklearn}
        seconds, results = interleaved(functions)
        losses = {key: 0.5 * np.linalg.norm(X - found[0] @ found[1]) ** 2 for key, found in results.items()}
        W, H, summary = results["ours"]
        check("NMF, loss", summary[0], losses["ours"], 1e-9 * losses["ours"])
        check("NMF, smallest entry", min(0, W.min(), H.min()), 0, 0)
        rows.append({"start": name, "ours_loss": losses["ours"], "sklearn_loss": losses["sklearn"],
                     "ours_seconds": seconds["ours"], "sklearn_over_ours": seconds["sklearn"] / seconds["ours"],
                     "ours_iterations": int(summary[1]), "sklearn_iterations": int(results["sklearn"][2])})
    report.table("nmf", {
        "start": (f"NMF of the digits, k = {rank}: start", str),
        "ours_loss": ("ours: final loss", lambda x: f"{x:.2f}"),
        "ours_iterations": ("iterations", str), "ours_seconds": ("ms", milliseconds),
        "sklearn_loss": ("scikit-learn: final loss", lambda x: f"{x:.2f}"), "sklearn_iterations": ("iterations", str),
        "sklearn_over_ours": ("its time / ours", times)}, rows)


def main():
    chosen = options(__doc__.splitlines()[0])
    ours = Ours(Library(chosen.library))
    report = Report("lowrank", ("numpy", "scikit-learn", "torch", "peft"))
    for case in (combine, components, factorization, exact, randomized, resize):
        case(report, ours, chosen.quick)
    report.write(chosen.out)


if __name__ == "__main__":
    main()
