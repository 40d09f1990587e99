"""Mixed batches against those of PEFT: model(x, adapter_names=[...]). Started by benchmarks/run.sh mixed --peer.

One frozen layer and many adapters of ranks 4 to 32; each sample of a batch has its own, and inference is one pass. Each
side gets the same numbers and runs in turns with the others, each after a pass of the same side that is not timed.

PEFT is told names. Ours is timed with handles, which a program keeps, and also told names, which it looks up in every
pass. PEFT's call of a model walks through all its modules, so that its layer is also called by itself. Shuffled samples
are in no order: PEFT collects those of an adapter, ours has a segment for each run of neighbors. W0 alone says how much
of the difference is that of the products with it. The outputs are compared before and after the timing.
"""

import sys
import time
from functools import partial

import numpy as np
import peft
import torch

from harness import Library, Report, busy_share, interleaved, options, wait_for_idle

RANKS = (4, 8, 16, 32)  # in turn
ALPHA = 16  # of all: scales from 4 to 1/2
TOLERANCE = 2e-5  # distance of a sample's output from the peer's, over its norm


def numbers(*shape, bound, rng):
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Ours:
    def __init__(self, library, weight, factors, x, owners):
        self._library, self._handle, self._shape = library, np.zeros(1, np.int64), x.shape
        ranks = np.array([len(A) for A, _ in factors])
        flat = np.concatenate([factor.ravel() for pair in factors for factor in pair])
        library.make(self._handle, x.shape[1], len(factors), len(x), ranks, np.full(len(factors), float(ALPHA)), weight,
                     flat, x, owners)

    def mixed(self, count):
        self._library.mixed(int(self._handle[0]), count)

    def named(self, count):
        self._library.named(int(self._handle[0]), count)

    def base(self, count):
        self._library.base(int(self._handle[0]), count)

    def outputs(self):
        """Of the last pass with adapters, and of the last with W0 alone."""
        found = [np.empty(self._shape, np.float32) for _ in range(2)]
        self._library.outputs(int(self._handle[0]), *found)
        return found

    def release(self):
        self._library.release(int(self._handle[0]))


class Theirs:
    def __init__(self, weight, factors, x, owners):
        base = torch.nn.Linear(*weight.shape, bias=False)
        with torch.no_grad():
            base.weight.copy_(torch.from_numpy(weight))
        model = None
        for k, (A, _) in enumerate(factors):
            config = peft.LoraConfig(r=len(A), lora_alpha=ALPHA, target_modules=["0"])
            if model is None:
                model = peft.get_peft_model(torch.nn.Sequential(base), config, adapter_name=f"user{k}")
            else:
                model.add_adapter(f"user{k}", config)
        layer = model.base_model.model[0]
        with torch.no_grad():
            for k, (A, B) in enumerate(factors):
                layer.lora_A[f"user{k}"].weight.copy_(torch.from_numpy(A))
                layer.lora_B[f"user{k}"].weight.copy_(torch.from_numpy(B))
        self._model, self._layer, self._base = model.eval(), layer, base
        self._x, self._names = torch.from_numpy(x), [f"user{k}" for k in owners]
        self.y = {}

    def _run(self, name, count, function, **more):
        with torch.inference_mode():
            for _ in range(count):
                self.y[name] = function(self._x, **more)

    def model(self, count):
        self._run("model", count, self._model, adapter_names=self._names)

    def layer(self, count):
        self._run("layer", count, self._layer, adapter_names=self._names)

    def base(self, count):
        self._run("base", count, self._base)


def distance(given, expected):
    """Of the sample for which it is largest."""
    return float((np.linalg.norm(given - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def compare(what, ours, theirs):
    """The largest distance. Ends the program if it is too large, or if an adapter's own term is so small that its
    absence could be missed."""
    mixed, base = ours.outputs()
    y = {name: value.numpy() for name, value in theirs.y.items()}
    share = (np.linalg.norm(y["model"] - y["base"], axis=1) / np.linalg.norm(y["model"], axis=1)).min()
    if not share > 0.1:
        sys.exit(f"{what}: an adapter gives {share:.1e} of its sample's output, expected more than a tenth")
    found = max(distance(mixed, y["model"]), distance(mixed, y["layer"]), distance(base, y["base"]))
    if not found <= TOLERANCE:
        sys.exit(f"{what}: outputs are {found:.1e} from the peer's, expected at most {TOLERANCE:.0e}")
    return found


def measure(library, d, adapters, each, shuffled, quick):
    rng = np.random.default_rng([d, adapters, each])
    weight = numbers(d, d, bound=d**-0.5, rng=rng)
    factors = [(numbers(rank, d, bound=d**-0.5, rng=rng), numbers(d, rank, bound=rank**-0.5, rng=rng))
               for rank in (RANKS[k % len(RANKS)] for k in range(adapters))]
    x = numbers(adapters * each, d, bound=1, rng=rng)
    owners = np.repeat(np.arange(adapters), each)
    if shuffled:
        rng.shuffle(owners)
    ours, theirs = Ours(library, weight, factors, x, owners), Theirs(weight, factors, x, owners)
    steps = {"ours": ours.mixed, "ours_named": ours.named, "peer": theirs.model, "peer_layer": theirs.layer,
             "ours_base": ours.base, "peer_base": theirs.base}
    counts = {}
    for name, step in steps.items():
        step(2)
        start = time.process_time()
        step(3)
        counts[name] = max(1, int(30e-3 / (time.process_time() - start)))  # a repetition of about ten milliseconds
    batch = f"{adapters} x {each}" + (", shuffled" if shuffled else "")
    found = []
    for step in (ours.mixed, ours.named):
        step(1)
        found.append(compare(f"{d}, {batch}", ours, theirs))
    seconds, _ = interleaved({name: partial(step, counts[name]) for name, step in steps.items()}, 5 if quick else 31,
                             2 if quick else 60, {name: partial(step, 1) for name, step in steps.items()})
    found.append(compare(f"{d}, {batch}", ours, theirs))
    ours.release()
    ms = {f"{name}_ms": 1e3 * value / counts[name] for name, value in seconds.items()}
    return {"d": d, "adapters": adapters, "samples_each": each, "shuffled": shuffled, "batch": batch, **ms,
            "ratio": ms["peer_ms"] / ms["ours_ms"], "named_ratio": ms["peer_ms"] / ms["ours_named_ms"],
            "layer_ratio": ms["peer_layer_ms"] / ms["ours_ms"],
            "base_ratio": ms["peer_base_ms"] / ms["ours_base_ms"], "distance": max(found)}


def main():
    chosen = options(__doc__.splitlines()[0])
    library = Library(chosen.library)
    report = Report("mixed", ("torch", "peft"), ", each after a pass of the same side that is not timed")
    busy = wait_for_idle(5 if chosen.quick else 60)
    cases = ((256, 4, 2, False), (256, 4, 2, True))
    if not chosen.quick:
        cases = ((1024, 16, 4, False), (1024, 16, 4, True), (1024, 64, 1, False), (4096, 64, 1, False))
    rows = [measure(library, *case, chosen.quick) for case in cases]
    busy = max(busy, busy_share())
    report.json.update(tolerance=TOLERANCE, idle=busy <= 0.1, busy_share=busy)
    if busy > 0.1:
        print(f"The machine was not idle: other programs took {100 * busy:.0f} % of it.", flush=True)

    def ms(value):
        return f"{value:.3g}"

    def times(ratio):
        return f"{ratio:.2f}"

    case = {"d": ("d x d", str), "batch": ("adapters x samples", str)}
    report.table("cases", {
        **case, "ours_ms": ("ours, ms", ms), "ours_named_ms": ("looking names up, ms", ms), "peer_ms": ("PEFT, ms", ms),
        "ratio": ("PEFT / ours", times), "named_ratio": ("/ looking names up", times),
        "peer_layer_ms": ("PEFT's layer alone, ms", ms), "layer_ratio": ("/ ours", times)}, rows)
    report.table("base", {
        **case, "ours_base_ms": ("W0 alone: ours, ms", ms), "peer_base_ms": ("PyTorch, ms", ms),
        "base_ratio": ("PyTorch / ours", times),
        "distance": (f"outputs apart, at most {TOLERANCE:.0e}", lambda value: f"{value:.0e}")}, rows)
    report.write(chosen.out)


if __name__ == "__main__":
    main()
