"""A training step against PyTorch with PEFT, and inference. Started by benchmarks/run.sh --peer.

Each side gets the same numbers and runs in turns with the other. A step of a layer is forward, the gradients of its
input, of A and of B, and AdamW; that of the network ends in softmax cross-entropy and trains all layers' adapters.
Before it is timed, each case is compared: outputs and gradients of the first step, the adapters after the third.
"""

import datetime
import json
import sys
import time
from functools import partial

import numpy as np
import peft
import torch

from ratio_chart import chart
from harness import Library, Report, busy_share, interleaved, options, wait_for_idle

LR = 1e-3  # as in training.cpp


class Ours:
    """A case of training.cpp."""

    def __init__(self, library, shapes, make):
        self._library, self._shapes, self._handle = library, shapes, np.zeros(1, np.int64)
        make(self._handle)

    def steps(self, count):
        self._library.steps(int(self._handle[0]), count)

    def results(self):
        """As PyTorch shows them: every matrix transposed, row-major."""
        flat = np.empty(sum(rows * cols for rows, cols in self._shapes), np.float32)
        self._library.results(int(self._handle[0]), flat)
        ends = np.cumsum([rows * cols for rows, cols in self._shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self._shapes)]

    def release(self):
        self._library.release(int(self._handle[0]))


def numbers(*shape, bound=1.0, rng):
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def adapted(layer, rank, rng):
    """The layer with PEFT's LoRA of scale 2, whose B is not zero."""
    model = peft.get_peft_model(torch.nn.Sequential(layer), peft.LoraConfig(r=rank, lora_alpha=2 * rank,
                                                                            target_modules=["0"]))
    found = model.base_model.model[0]
    with torch.no_grad():
        for factors in (found.lora_A, found.lora_B):
            weight = factors["default"].weight
            weight.copy_(torch.from_numpy(numbers(*weight.shape, bound=0.1, rng=rng)))
    return found


def array(tensor):
    return np.ascontiguousarray(tensor.detach().numpy())


def factors_of(layer):
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def compare(what, ours, theirs, tolerance):
    for k, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        distance = np.linalg.norm(mine - other) / np.linalg.norm(other)
        if not distance <= tolerance:
            sys.exit(f"{what}: result {k} is {distance:.1e} from the peer's, expected at most {tolerance:.0e}")


class Comparison:
    def __init__(self, library, report, quick, compiler):
        self._library, self._report, self._quick, self._compiler = library, report, quick, compiler
        self.rows = []

    def roof(self, size):
        found = np.empty(2)
        self._library.roof(size, found)
        return found

    def _time(self, case, ours, peer, fixed, operations, weights, copies=1):
        """Medians of repetitions of about three milliseconds, or of one step. A step of the same side that nobody times
        goes ahead of each: it puts back what the other side has driven out of the caches, as far as they hold it. The
        peak is measured before and after; if it has moved by more than a tenth, all is measured again, twice at most."""
        steps = {"ours": ours.steps, "peer": lambda count: [peer() for _ in range(count)]}
        counts = {}
        for name, function in steps.items():
            function(2)
            start = time.perf_counter()
            function(3)
            counts[name] = max(1, int(9e-3 / max(time.perf_counter() - start, 1e-9)))
        for attempt in range(3):
            peaks, spreads = [self.roof(weights)], {}
            seconds, _ = interleaved({name: partial(steps[name], counts[name]) for name in steps},
                                     5 if self._quick else 15, 2 if self._quick else 12,
                                     {name: partial(steps[name], 1) for name in steps}, spreads)
            peaks.append(self.roof(weights))
            moved = abs(peaks[1][0] / peaks[0][0] - 1)
            if moved <= 0.1 or self._quick:
                break
        mine, other = seconds["ours"] / counts["ours"], seconds["peer"] / counts["peer"]
        peak = max(found[0] for found in peaks)
        row = {"case": case, **fixed, "threads": 1, "scalar": "float", "copies": copies, "ours_us": 1e6 * mine,
               "peer_us": 1e6 * other, "ratio": other / mine, "share_of_peak": operations / mine / peak,
               "gflops_peak": peak / 1e9, "peak_moved": moved, "ours_spread": spreads.get("ours", 0.0),
               "peer_spread": spreads.get("peer", 0.0), "read_gbps": max(found[1] for found in peaks) / 1e9,
               "compiler": self._compiler}
        self.rows.append(row)
        ours.release()
        held = ", two copies" if copies == 2 else ""
        print(f"  {case} {fixed}{held}: {row['ours_us']:.4g} us (+- {100 * row['ours_spread']:.0f} %), "
              f"PEFT {row['peer_us']:.4g} us (+- {100 * row['peer_spread']:.0f} %), {row['ratio']:.3g}x, "
              f"{100 * row['share_of_peak']:.0f} % of peak"
              + (f", which moved by {100 * moved:.0f} %" if moved > 0.1 else ""), flush=True)

    def linear(self, out, n_in, samples, rank, copies=1):
        rng = np.random.default_rng([out, n_in, samples, rank])
        layer = torch.nn.Linear(n_in, out, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(numbers(out, n_in, bound=n_in**-0.5, rng=rng)))
        model = adapted(layer, rank, rng)
        A, B = factors_of(model)
        x = torch.from_numpy(numbers(samples, n_in, rng=rng)).requires_grad_()
        dy = torch.from_numpy(numbers(samples, out, bound=1 / samples, rng=rng))
        shapes = [(samples, out), (samples, n_in), (rank, n_in), (out, rank)]
        ours = Ours(self._library, shapes, lambda handle: self._library.make_linear(
            handle, out, n_in, samples, rank, 0, copies, array(layer.weight), array(A), array(B), array(x), array(dy)))
        optimizer = torch.optim.AdamW([A, B], lr=LR)

        def step():
            optimizer.zero_grad()
            x.grad = None
            y = model(x)
            y.backward(dy)
            optimizer.step()
            return y

        # Adam's first steps are the signs of gradients, and a gradient of rounding size may have either.
        ours.steps(1)
        y = step()
        what = f"linear {out} x {n_in}, {samples}"
        compare(what, ours.results()[:2], [array(y), array(x.grad)], 2e-5)
        ours.steps(2)
        step()
        step()
        compare(what + ", adapter", ours.results()[2:], [array(A), array(B)], 1e-3)
        operations = 4 * out * n_in * samples + 6 * (out + n_in) * rank * samples
        self._time("linear", ours, step, {"d": out, "k": n_in, "n": samples, "r": rank}, operations, 4 * out * n_in,
                   copies)

    def inference(self, d, samples, rank, merged):
        rng = np.random.default_rng([d, samples, rank])
        layer = torch.nn.Linear(d, d, bias=False)
        model = adapted(layer, rank, rng)
        A, B = factors_of(model)
        x = torch.from_numpy(numbers(samples, d, rng=rng))
        ours = Ours(self._library, [(samples, d)], lambda handle: self._library.make_linear(
            handle, d, d, samples, rank, 2 if merged else 1, 1, array(layer.weight), array(A), array(B), array(x),
            array(x)))
        if merged:
            model.merge()
            model = model.get_base_layer()

        def step():
            with torch.inference_mode():
                return model(x)

        ours.steps(1)
        compare(f"inference {d}, {samples}", ours.results(), [array(step())], 2e-5)
        products = 2 * d * d * samples + (0 if merged else 4 * d * rank * samples)
        self._time("inference merged" if merged else "inference", ours, step, {"d": d, "k": d, "n": samples, "r": rank},
                   products, 4 * d * d)

    def network(self, widths, samples, rank):
        rng = np.random.default_rng([samples, rank])
        layers = [adapted(torch.nn.Linear(a, b), rank, rng) for a, b in zip(widths, widths[1:])]
        parts = []
        for k, layer in enumerate(layers):
            parts += [layer] if k == 0 else [torch.nn.ReLU(), layer]
        model = torch.nn.Sequential(*parts)
        x = torch.from_numpy(numbers(samples, widths[0], rng=rng))
        labels = torch.from_numpy(rng.integers(0, widths[-1], samples))
        trained = [factor for layer in layers for factor in factors_of(layer)]
        weights = np.concatenate([array(t).ravel() for layer in layers
                                  for t in (layer.get_base_layer().weight, layer.get_base_layer().bias,
                                            *factors_of(layer))])
        shapes = [tuple(factor.shape) for factor in trained]
        ours = Ours(self._library, shapes, lambda handle: self._library.make_network(
            handle, len(layers), np.array(widths), samples, rank, weights, array(x), array(labels)))
        optimizer = torch.optim.AdamW(trained, lr=LR)
        loss = torch.nn.CrossEntropyLoss()

        def step():
            optimizer.zero_grad()
            loss(model(x), labels).backward()
            optimizer.step()

        ours.steps(2)
        step()
        step()
        compare(f"network, {samples}", ours.results(), [array(factor) for factor in trained], 1e-3)
        operations = sum((4 * a * b if k else 2 * a * b) + 6 * (a + b) * rank - (0 if k else 2 * a * rank)
                         for k, (a, b) in enumerate(zip(widths, widths[1:]))) * samples
        self._time("network " + "-".join(map(str, widths)), ours, step,
                   {"d": widths[1], "k": widths[0], "n": samples, "r": rank}, operations, weights.nbytes)


def main():
    chosen = options(__doc__.splitlines()[0])
    library = Library(chosen.library)
    report = Report("training", ("torch", "peft"), ", each after a step of the same side that is not timed")
    compiler = np.zeros(64, np.uint8)
    library.compiler(compiler, compiler.size)
    run = Comparison(library, report, chosen.quick, bytes(compiler).rstrip(b"\0").decode())
    # For both sides, which run in this thread: lora::DenormalsAsZero does the same. The network learns its data, and what
    # is left of its gradients would slow down either by as much as the processor minds.
    torch.set_flush_denormal(True)
    busy = wait_for_idle(5 if chosen.quick else 60)
    for d in (64, 256) if chosen.quick else (64, 256, 768, 1024, 2048, 4096):
        for samples in (1, 32) if chosen.quick else (1, 8, 32, 128, 512):
            for copies in (1, 2):
                run.linear(d, d, samples, 8, copies)
    if not chosen.quick:
        for rank in (1, 2, 4, 16, 32, 64):
            run.linear(1024, 1024, 128, rank)
        run.linear(384, 1536, 1024, 8)
        run.linear(1536, 384, 1024, 8)
    for samples in (32,) if chosen.quick else (32, 64, 256):
        run.network((64, 128, 128, 10), samples, 8)
    served = ((64, 8),) if chosen.quick else ((64, 1), (768, 1), (768, 32), (768, 512), (2048, 1), (2048, 128))
    for d, samples in served:
        run.inference(d, samples, 8, False)
        run.inference(d, samples, 8, True)
    busy = max(busy, busy_share())
    idle = busy <= 0.1
    report.json["idle"] = idle
    report.json["busy_share"] = busy
    if not idle:
        print(f"The machine was not idle: other programs took {100 * busy:.0f} % of it.", flush=True)
    report.table("cases", {
        "case": ("step", str), "d": ("out", str), "k": ("in", str), "n": ("samples", str), "r": ("rank", str),
        "copies": ("copies of W0", str), "ours_us": ("ours, us", lambda v: f"{v:.3g}"),
        "peer_us": ("PyTorch and PEFT, us", lambda v: f"{v:.3g}"),
        "ratio": ("its time / ours", lambda v: f"{v:.3g}"),
        "ours_spread": ("ours, spread", lambda v: f"{100 * v:.0f} %"),
        "peer_spread": ("its spread", lambda v: f"{100 * v:.0f} %"),
        "share_of_peak": ("ours, of the multiply-add peak", lambda v: f"{100 * v:.0f} %")}, run.rows)
    report.write(chosen.out)
    (chosen.out / "peer.json").write_text(json.dumps(run.rows, indent=2) + "\n")
    grid = [row for row in run.rows
            if row["case"] == "linear" and row["d"] == row["k"] and row["r"] == 8 and row["copies"] == 1]
    versions = ", ".join(f"{name} {number}" for name, number in report.json["packages"].items())
    conditions = f"rank 8, float, one thread of {report.json['processor']}; {versions}; {datetime.date.today()}"
    (chosen.out / "peer.svg").write_text(chart(grid, conditions))
    print("and peer.json, the rows alone, and peer.svg")


if __name__ == "__main__":
    main()
