"""Writes reference.hpp: what PyTorch and Transformers compute, as literals for the tests of optimizers, losses, layers.

    pip install torch==2.13.0 transformers==5.23.0
    python tests/optim/reference.py > tests/optim/reference.hpp
    python tests/optim/reference.py --check      compares with reference.hpp instead, to 1e-14 of each array's largest

Everything is in double precision. Two parameters, A (2, 3) and B (4, 2), take ten steps; their gradient is a pattern of
the step and the position, plus a quarter of the value (the function `gradient` below, and its twin in the tests).
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import torch
import transformers

torch.set_default_dtype(torch.float64)
STEPS = 10


def start(name):
    rows, cols = {"A": (2, 3), "B": (4, 2)}[name]
    offset = {"A": 1, "B": 4}[name]
    return torch.tensor([[((5 * i + 3 * j + offset) % 11 - 5) / 4 for j in range(cols)] for i in range(rows)])


def gradient(value, step, offset):
    rows, cols = value.shape
    pattern = [[((7 * i + 4 * j + 11 * step + offset) % 13 - 6) / 8 for j in range(cols)] for i in range(rows)]
    return torch.tensor(pattern) + value.detach() / 4


def train(make, schedule=None, max_norm=None):
    """The values after the last step, A row by row and then B, and the norms before clipping."""
    parameters = {"A": torch.nn.Parameter(start("A")), "B": torch.nn.Parameter(start("B"))}
    optimizer = make(parameters["A"], parameters["B"])
    scheduler = schedule(optimizer) if schedule else None
    norms = []
    for step in range(STEPS):
        parameters["A"].grad = gradient(parameters["A"], step, 0)
        parameters["B"].grad = gradient(parameters["B"], step, 5)
        if max_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), max_norm).item())
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [x for name in ("A", "B") for x in parameters[name].detach().flatten().tolist()], norms


def array(name, values):
    lines = [", ".join(repr(value) for value in values[i : i + 5]) for i in range(0, len(values), 5)]
    body = ",\n    ".join(lines)
    print(f"inline constexpr std::array<double, {len(values)}> {name} = {{\n    {body}}};")


def trajectory(name, make, **options):
    values, norms = train(make, **options)
    array(name, values)
    if norms:
        array(name + "_norms", norms)


def optimizers():
    sgd, adam, adamw = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
    trajectory("sgd", lambda a, b: sgd([a, b], lr=0.1))
    trajectory("sgd_momentum", lambda a, b: sgd([a, b], lr=0.1, momentum=0.9))
    trajectory(
        "sgd_dampening", lambda a, b: sgd([a, b], lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.05)
    )
    trajectory("sgd_nesterov", lambda a, b: sgd([a, b], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02))
    trajectory("adam", lambda a, b: adam([a, b]))
    trajectory("adam_decay", lambda a, b: adam([a, b], lr=0.05, weight_decay=0.1))
    trajectory("adamw", lambda a, b: adamw([a, b]))
    trajectory(
        "adamw_all", lambda a, b: adamw([a, b], lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    )
    trajectory(
        "adamw_groups",
        lambda a, b: adamw([{"params": [a]}, {"params": [b], "lr": 0.16, "weight_decay": 0.0}], lr=0.01, weight_decay=0.3),
    )
    trajectory(
        "adamw_linear",
        lambda a, b: adamw([a, b], lr=0.05, weight_decay=0.1),
        schedule=lambda o: transformers.get_linear_schedule_with_warmup(o, 3, 9),
    )
    trajectory(
        "sgd_cosine",
        lambda a, b: sgd([a, b], lr=0.1, momentum=0.9),
        schedule=lambda o: transformers.get_cosine_schedule_with_warmup(o, 2, 10),
    )
    trajectory("adamw_clipped", lambda a, b: adamw([a, b], lr=0.05), max_norm=1.5)


def schedules():
    def factors(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer)
        values = []
        for _ in range(24):
            values.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return values

    array("constant_factors", factors(lambda o: transformers.get_constant_schedule_with_warmup(o, 4)))
    array("linear_factors", factors(lambda o: transformers.get_linear_schedule_with_warmup(o, 4, 20)))
    array("cosine_factors", factors(lambda o: transformers.get_cosine_schedule_with_warmup(o, 4, 20))[:21])


def losses():
    samples, classes = 5, 4
    z = torch.tensor([[((9 * i + 5 * j) % 17 - 8) / 3 for i in range(classes)] for j in range(samples)], requires_grad=True)
    loss = torch.nn.functional.cross_entropy(z, torch.tensor([1, 0, 3, 2, 3]))
    loss.backward()
    print(f"inline constexpr double cross_entropy_loss = {loss.item()!r};")
    array("cross_entropy_gradient", z.grad.flatten().tolist())  # sample by sample: column-major (classes, samples)

    y = torch.tensor([[((4 * i + 7 * j) % 9 - 4) / 3 for i in range(3)] for j in range(4)], requires_grad=True)
    t = torch.tensor([[((2 * i + 5 * j) % 7 - 3) / 3 for i in range(3)] for j in range(4)])
    loss = torch.nn.functional.mse_loss(y, t)
    loss.backward()
    print(f"inline constexpr double squared_error_loss = {loss.item()!r};")
    array("squared_error_gradient", y.grad.flatten().tolist())


def activations():
    """y and dx, feature by feature and then sample by sample: column-major (features, samples)."""
    features, samples = 4, 5
    x = torch.tensor([[((9 * i + 5 * j) % 19 - 9) / 2 for i in range(features)] for j in range(samples)])
    dy = torch.tensor([[((4 * i + 7 * j) % 9 - 4) / 3 for i in range(features)] for j in range(samples)])
    f = torch.nn.functional
    functions = {
        "relu": f.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "silu": f.silu,
        "gelu": f.gelu,
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "softmax": lambda x: torch.softmax(x, dim=1),
    }
    for name, function in functions.items():
        argument = x.clone().requires_grad_()
        y = function(argument)
        y.backward(dy)
        array(name, y.detach().flatten().tolist())
        array(name + "_gradient", argument.grad.flatten().tolist())


def norms():
    """As activations()."""
    features, samples = 6, 5
    x = torch.tensor([[((9 * i + 5 * j) % 19 - 9) / 2 for i in range(features)] for j in range(samples)])
    dy = torch.tensor([[((4 * i + 7 * j) % 9 - 4) / 3 for i in range(features)] for j in range(samples)])
    for name, norm in {"layer_norm": torch.nn.LayerNorm(features), "rms_norm": torch.nn.RMSNorm(features, eps=1e-6)}.items():
        norm.weight.data = torch.tensor([(i - 2) / 2 for i in range(features)])
        if name == "layer_norm":
            norm.bias.data = torch.tensor([3 * i % 4 - 1.0 for i in range(features)])
        argument = x.clone().requires_grad_()
        y = norm(argument)
        y.backward(dy)
        array(name, y.detach().flatten().tolist())
        array(name + "_gradient", argument.grad.flatten().tolist())
        for part, parameter in norm.named_parameters():
            array(f"{name}_{part}", parameter.grad.tolist())


def attention():
    """Two sequences of 3 and 5 tokens, each on its own; token by token: column-major (features, tokens)."""

    def pattern(rows, a, b, most):
        return torch.tensor([[((a * i + b * j) % most - most // 2) / 4 for i in range(rows)] for j in range(8)])

    heads, key_heads, head_dim = 4, 2, 3
    d_o = pattern(heads * head_dim, 3, 8, 11)
    for name, causal in {"attention": False, "causal_attention": True}.items():
        q = pattern(heads * head_dim, 5, 7, 17).requires_grad_()
        k = pattern(key_heads * head_dim, 4, 9, 19).requires_grad_()
        v = pattern(key_heads * head_dim, 7, 3, 13).requires_grad_()
        outputs = []
        for first, last in (0, 3), (3, 8):
            parts = [x[first:last].unflatten(1, (-1, head_dim)).transpose(0, 1) for x in (q, k, v)]
            o = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=True)
            outputs.append(o.transpose(0, 1).flatten(1))
        o = torch.cat(outputs)
        o.backward(d_o)
        array(name, o.detach().flatten().tolist())
        for part, x in {"q": q, "k": k, "v": v}.items():
            array(f"{name}_{part}", x.grad.flatten().tolist())


def embedding():
    """y token by token: column-major (features, tokens). The gradient row by row, as the table lies."""
    table = torch.tensor([[((9 * j + 5 * i) % 19 - 9) / 2 for j in range(4)] for i in range(5)]).requires_grad_()
    dy = torch.tensor([[((4 * i + 7 * j) % 9 - 4) / 3 for i in range(4)] for j in range(5)])
    y = torch.nn.functional.embedding(torch.tensor([3, 0, 4, 3, 3]), table)
    y.backward(dy)
    array("embedding", y.detach().flatten().tolist())
    array("embedding_weight", table.grad.flatten().tolist())


def written():
    """The whole of reference.hpp."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print("#pragma once")
        print("// clang-format off")
        print(f"// Written by reference.py with torch {torch.__version__}, transformers {transformers.__version__}.")
        print("\n#include <array>\n\nnamespace reference {\n")
        optimizers()
        schedules()
        losses()
        activations()
        norms()
        attention()
        embedding()
        print("\n}  // namespace reference")
    return text.getvalue()


def values(text):
    """The numbers of each constant by its name."""
    found = re.findall(r"inline constexpr [\w:<>, ]+? (\w+) = ([^;]*);", text)
    return {name: [float(x) for x in re.findall(r"[-+0-9.e]+", body)] for name, body in found}


def check():
    """The names of the constants in reference.hpp that are not what is computed now."""
    now = values(written())
    stored = values((Path(__file__).resolve().parent / "reference.hpp").read_text())
    wrong = sorted(now.keys() ^ stored.keys())
    for name in now.keys() & stored.keys():
        largest = max(map(abs, now[name]))
        same = len(now[name]) == len(stored[name]) and all(
            abs(x - y) <= 1e-14 * largest for x, y in zip(now[name], stored[name]))
        if not same:
            wrong.append(name)
    print(f"reference: {len(now)} constants, {len(wrong)} differ from reference.hpp {wrong if wrong else ''}")
    return len(wrong) > 0 or not now


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    print(written(), end="")
