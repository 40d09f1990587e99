"""What every comparison with a peer needs: one thread, both sides in turns, the same clock, a report."""

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import threadpoolctl
import torch


def pointer(array):
    """The address of an array's numbers, which lie row after row."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class Library:
    """A library of peers/*.cpp; its functions return 0 or have printed what went wrong."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        function = getattr(self._library, name)

        def call(*arguments):
            given = [pointer(a) if isinstance(a, np.ndarray) else ctypes.c_double(a) if isinstance(a, float)
                     else ctypes.c_ssize_t(a) for a in arguments]
            if function(*given) != 0:
                raise RuntimeError(f"{name} failed")

        return call


def busy_share(seconds=0.5):
    """The share of all processors that other programs take."""

    def read():
        values = [int(v) for v in open("/proc/stat").readline().split()[1:8]]
        return sum(values), values[3] + values[4]

    before, own = read(), time.process_time()
    time.sleep(seconds)
    after = read()
    total = max(1, after[0] - before[0])
    mine = (time.process_time() - own) / seconds / os.cpu_count()
    return max(0.0, 1 - (after[1] - before[1]) / total - mine)


def wait_for_idle(limit=60):
    """Waits until other programs take less than a tenth of one processor; the share they take in the end."""
    start = time.monotonic()
    while (busy := busy_share()) > 0.1 / os.cpu_count() and time.monotonic() - start < limit:
        time.sleep(1)
    return busy


def interleaved(functions, repetitions=11, seconds=60.0, before=None, spreads=None):
    """Median seconds of processor time of each function, all threads counted. The functions run in turns in an order
    that changes, so that a slow moment of the machine hits them alike. Fewer repetitions, at least three, if they would
    take longer than `seconds`; once, if a single round takes that long. before[name] runs ahead of each repetition of
    functions[name], outside its time. spreads[name], if asked for, is the interquartile range over the median. Returns
    the times and what the functions returned."""
    results, first = {}, {}
    begin = time.process_time()
    for name, function in functions.items():
        if before:
            before[name]()
        start = time.process_time()
        results[name] = function()
        first[name] = time.process_time() - start
    total = time.process_time() - begin
    if total > seconds:
        return first, results
    times = {name: [] for name in functions}
    order = list(functions)
    shuffle = random.Random(0)
    for _ in range(max(3, min(repetitions, int(seconds / max(total, 1e-9))))):
        shuffle.shuffle(order)
        for name in order:
            if before:
                before[name]()
            start = time.process_time()
            functions[name]()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    if spreads is not None:
        for name, values in times.items():
            low, _, high = statistics.quantiles(values, n=4)
            spreads[name] = (high - low) / medians[name]
    return medians, results


def processor():
    """Its name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Report:
    """Numbers for NAME_peer.json, and the same as Markdown tables, printed as they come."""

    def __init__(self, name, packages, protocol=""):
        self.name = name
        self.json = {"processor": processor(), "threads": 1, "clock": "processor time",
                     "packages": {package: version(package) for package in packages}}
        self.markdown = [", ".join(f"{package} {version(package)}" for package in packages)
                         + f"; one thread, medians of processor time, all sides in turns in one process{protocol}."]
        print(self.markdown[0], flush=True)

    def table(self, key, columns, rows):
        """rows: dictionaries; columns: a heading for each key, and how to write its values."""
        self.json[key] = rows
        lines = ["| " + " | ".join(heading for heading, _ in columns.values()) + " |",
                 "|" + "|".join("---" if k == 0 else "--:" for k in range(len(columns))) + "|"]
        for row in rows:
            cells = [show(row[name]) if row.get(name) is not None else "" for name, (_, show) in columns.items()]
            lines.append("| " + " | ".join(cells) + " |")
        text = "\n".join(lines)
        self.markdown.append(text)
        print("\n" + text, flush=True)

    def write(self, out):
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{self.name}_peer.json").write_text(json.dumps(self.json, indent=2) + "\n")
        (out / f"{self.name}_peer.md").write_text("\n\n".join(self.markdown) + "\n")
        print(f"\nWrote {self.name}_peer.json and {self.name}_peer.md to {out}")


def options(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--library", required=True, type=Path, help="what benchmarks/run.sh has built")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="small matrices, to see that everything runs")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    return chosen
