#!/usr/bin/env python3
"""Two processes against one, the constants of the cost model on loopback, and the model's table: docs/parallel.md.

    benchmarks/run.sh data_parallel [--repetitions N] [--out DIR] [--model-only]

One process and two take turns; so do two at the same time that know nothing of each other, which is what the machine has
for two, whatever the library does. Each time is the median of the steps of a run, each row the median and the best of the
runs. --model-only prints the table again from DIR/report.json, for other networks or machines: change NETWORKS, MODELS.
"""

import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

# Of a network between machines: seconds for a message, bytes for a second in one direction.
NETWORKS = {"1 Gbit/s": (50e-6, 0.117e9), "25 Gbit/s": (20e-6, 2.9e9)}
# Trained numbers with rank 8 in all linear layers, and the frozen ones that a token meets in them.
MODELS = {
    "MiniLM (6 x 384)": (6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536)), 6 * (4 * 384**2 + 2 * 384 * 1536)),
    "1.1B (22 x 2048)": (22 * 8 * (2 * 4096 + 2 * (2048 + 256) + 3 * (2048 + 5632)),
                         22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632) + 32000 * 2048),
    "7B (32 x 4096)": (32 * 8 * (4 * 8192 + 3 * (4096 + 11008)),
                       32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096),
}
MACHINES = [1, 2, 8, 64]


def sum_seconds(processes, size, latency, rate, added_rate):
    """One sum on this many machines, one process on each: the longest way up the tree, and two broadcasts down."""
    levels = math.ceil(math.log2(processes))
    return levels * (3 * latency + 2 * size / rate + size / added_rate)


def model(report, cores):
    added_rate = report["link"]["shared memory"]["added_bytes_per_second"]
    flops = cores * report["one"]["gflops"] * 1e9
    print(f"A machine computes {flops / 1e9:.0f} GFLOP/s ({cores} cores as measured), adds {added_rate / 1e9:.1f} GB/s.\n")
    print("| model | gradient | network | sum, 2 machines | 8 | 64 | tokens a batch for 90 % on 64 | step then |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for name, (trained, frozen) in MODELS.items():
        for network, (latency, rate) in NETWORKS.items():
            sums = [sum_seconds(p, 4 * trained, latency, rate, added_rate) for p in MACHINES[1:]]
            compute = 9 * sums[-1]  # 90 % of the step
            tokens = 64 * compute * flops / (4 * frozen)
            print(f"| {name} | {4 * trained / 1e6:.1f} MB | {network} | " + " | ".join(f"{1e3 * s:.2f} ms" for s in sums) +
                  f" | {tokens:,.0f} | {compute + sums[-1]:.2f} s |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cores", type=int, default=16, help="of a machine in the model")
    parser.add_argument("--model-only", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "report.json"
    if options.model_only:
        model(json.loads(file.read_text()), options.cores)
        return

    def start(processes, *arguments, flags=()):
        command = [*options.mpirun.split(), "-np", str(processes), *flags, options.program, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(process):
        output = process.communicate()[0]
        if process.returncode != 0:
            raise SystemExit(process.returncode)
        return json.loads(output.splitlines()[-1])

    def run(*arguments, **flags):
        return result(start(*arguments, **flags))

    tcp = ["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"]
    report = {"link": {"shared memory": run(2, "--link"), "TCP on loopback": run(2, "--link", flags=tcp)}}
    runs = {1: [], 2: []}
    apart = []
    for _ in range(options.repetitions):
        for processes in runs:
            runs[processes].append(run(processes, "--step"))
        both = [start(1, "--step", flags=["--bind-to", "none"]) for _ in range(2)]
        apart.append(sum(result(one)["samples_per_second"] for one in both))
    if len({one["model"] for all_of in runs.values() for one in all_of}) != 1:
        raise SystemExit("data_parallel: two processes train another model than one")

    def middle(of, key):
        return statistics.median(one[key] for one in of)

    for name, processes in [("one", 1), ("two", 2)]:
        report[name] = {key: middle(runs[processes], key) for key in runs[processes][0] if key != "model"}
        report[name]["best_step_seconds"] = min(one["fastest_step_seconds"] for one in runs[processes])
    ratios = [one["step_seconds"] / two["step_seconds"] for one, two in zip(runs[1], runs[2])]
    report["ratios"] = ratios
    report["ratio"] = statistics.median(ratios)
    report["ratio_of_two_apart"] = statistics.median(
        both / one["samples_per_second"] for both, one in zip(apart, runs[1]))
    report["best_ratio"] = report["one"]["best_step_seconds"] / report["two"]["best_step_seconds"]
    file.write_text(json.dumps(report, indent=2) + "\n")

    print("| processes | step | samples a second | of it in the sum | sent and received by process 0 |")
    print("|--:|--:|--:|--:|--:|")
    for name in ["one", "two"]:
        row = report[name]
        print(f"| {row['processes']:.0f} | {1e3 * row['step_seconds']:.1f} ms | {row['samples_per_second']:.0f} | "
              f"{1e3 * row['sum_seconds']:.2f} ms | {row['bytes_per_step'] / 1e3:.0f} kB in {row['messages_per_step']:.0f} messages |")
    print(f"\nTwo processes: {report['ratio']:.2f} times the samples a second of one (pairs of runs: " +
          ", ".join(f"{ratio:.2f}" for ratio in ratios) + f"; fastest step against fastest: {report['best_ratio']:.2f}).\n"
          f"Two that know nothing of each other: {report['ratio_of_two_apart']:.2f} times.\n")
    print("| link | a message | 1 MB | 25 MB | 80 MB |\n|---|--:|--:|--:|--:|")
    for name, row in report["link"].items():
        print(f"| {name} | {1e6 * row['message_seconds']:.1f} us | " +
              " | ".join(f"{rate / 1e9:.2f} GB/s" for rate in row["bytes_per_second"].values()) + " |")
    print()
    model(report, options.cores)


main()
