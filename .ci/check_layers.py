#!/usr/bin/env python3
"""Fails when a header includes what its folder must not know, when headers include each other in a circle, or when the
umbrella lacks a header or draws in more than Eigen/Core and the standard library."""

import re
import sys
from pathlib import Path

INCLUDE = Path(__file__).resolve().parent.parent / "include"

# Each folder and those directly below it; it may include whatever can be reached from there.
BELOW = {
    "core": [],
    "kernels": ["core"],
    "linalg": ["kernels"],
    "base": ["kernels"],
    "adapters": ["linalg", "base"],
    "nn": ["adapters"],
    "model": ["nn"],
    "transformers": ["model"],
    "io": ["transformers"],
    "text": ["io"],
    "losses": ["kernels"],
    "optim": ["kernels"],
    "parallel": ["base"],
    "testing": ["model", "losses", "optim"],
}
# What the umbrella lora.hpp draws in, directly or not. A header that needs linalg is included by name.
UMBRELLA = {"core", "base", "adapters", "nn", "losses", "optim", "model"}
# But for what only transformers need, which would cost every other program half a second.
APART = {f"lora/nn/{name}.hpp" for name in ("activation_kind", "feed_forward", "encoder_block", "pooling")}
# All of the engine is internal, but public headers of the folders above it may use it.
ENGINE = "kernels"
# What is internal to its folder, but for these.
SHARED = {"lora/io/detail/json.hpp": {"text"}}
# Includes from outside that only some folders, or headers, may have.
OUTSIDE = {"nlohmann/": {"io"}, "mpi.h": {"lora/parallel/mpi.hpp"}, "Eigen/": {"linalg"}}
EVERYWHERE = {"Eigen/Core", "lora/version.hpp", "lora/abi.hpp"}


def folder(header):
    """"lora/nn/mlp.hpp" is in "nn"; what lies directly in lora/ has no folder."""
    return header.split("/")[1] if header.count("/") > 1 else ""


def is_internal(header):
    """What no user includes."""
    return "/detail/" in header or folder(header) == ENGINE


def reachable(start, edges):
    found, todo = set(), [start]
    while todo:
        for name in edges.get(todo.pop(), []):
            if name not in found:
                found.add(name)
                todo.append(name)
    return found


def circle(graph):
    """One circle of includes, as a list, or None."""
    done, path = set(), []

    def walk(name):
        if name in path:
            return path[path.index(name):] + [name]
        if name in done:
            return None
        path.append(name)
        for other in graph.get(name, []):
            found = walk(other)
            if found:
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(walk, graph)), None)


def check(include=INCLUDE):
    includes, outside_abi = {}, []
    for path in sorted(include.rglob("*.hpp")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^namespace lora(::(?!inline LORA_ABI)\w+)? {", text, re.M):
            outside_abi.append(path.relative_to(include).as_posix())
        includes[path.relative_to(include).as_posix()] = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.M)
    own = {name: [other for other in others if other.startswith("lora/")] for name, others in includes.items()}

    errors = [f"{name}: a namespace without inline LORA_ABI (lora/abi.hpp)" for name in outside_abi]
    for name in own:
        if folder(name) and "lora/abi.hpp" not in reachable(name, own):
            errors.append(f"{name} does not include lora/abi.hpp, directly or not")
    for name, others in includes.items():
        here = folder(name)
        if here and here not in BELOW:
            errors.append(f"{name}: the folder {here} is not in the table of {Path(__file__).name}")
            continue
        for other in others:
            if other in EVERYWHERE:
                continue
            if other.startswith("lora/"):
                if other not in includes:
                    errors.append(f"{name} includes {other}, which does not exist")
                elif here and folder(other) not in {here} | reachable(here, BELOW):
                    errors.append(f"{name} includes {other}: {here} must not know {folder(other) or 'the umbrella'}")
                elif "/detail/" in other and folder(other) != here and here not in SHARED.get(other, {}):
                    errors.append(f"{name} includes {other}, which is internal to {folder(other)}")
            for start, allowed in OUTSIDE.items():
                if other.startswith(start) and not {here, name} & allowed:
                    errors.append(f"{name} includes {other}: only {', '.join(sorted(allowed))} may")

    found = circle(own)
    if found:
        errors.append("a circle: " + " -> ".join(found))

    drawn_in = reachable("lora/lora.hpp", own)
    for name in sorted(drawn_in):
        if folder(name) and folder(name) not in UMBRELLA | {ENGINE}:
            errors.append(f"the umbrella lora.hpp draws in {name}")
    listed = set(own["lora/lora.hpp"])
    for name in sorted(includes):
        if folder(name) not in UMBRELLA or is_internal(name):
            if name in listed and folder(name):
                errors.append(f"the umbrella lora.hpp lists {name}, which is internal")
        elif name not in listed | APART and not any(folder(other) == "linalg" for other in reachable(name, own)):
            errors.append(f"the umbrella lora.hpp lacks {name}")
    for umbrella in ("io", "text"):
        for name in sorted(set(includes) - reachable(f"lora/{umbrella}.hpp", own)):
            if folder(name) == umbrella:
                errors.append(f"the umbrella {umbrella}.hpp lacks {name}")
    return errors, len(includes)


if __name__ == "__main__":
    problems, count = check()
    print("\n".join(problems) or f"{count} headers, each in its layer")
    sys.exit(bool(problems))
