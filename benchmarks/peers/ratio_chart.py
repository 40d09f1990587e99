"""The picture of training.py: how many times longer the peer takes, over the samples, one line for each layer."""

from math import log10

COLOURS = ("#0b6e4f", "#2a9d8f", "#4a7fb5", "#7b5ea7", "#c05780", "#d1781f")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 62, 150, 72, 52


def chart(rows, conditions):
    """rows: of square layers, with d, n and ratio. conditions: a line about processor, versions and date."""
    sizes = sorted({row["d"] for row in rows})
    samples = sorted({row["n"] for row in rows})
    top = max(10.0, max(row["ratio"] for row in rows))
    low = min(1.0, min(row["ratio"] for row in rows))

    def x(n):
        return LEFT + (WIDTH - LEFT - RIGHT) * samples.index(n) / max(1, len(samples) - 1)

    def y(ratio):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * log10(ratio / low) / log10(top / low)

    def text(at_x, at_y, label, more=""):
        return f'<text x="{at_x:.0f}" y="{at_y:.1f}" {more}>{label}</text>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
             'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#333">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             text(LEFT, 28, "A LoRA training step: time of PyTorch with PEFT / time of lora",
                  'font-size="16" font-weight="bold"'),
             text(LEFT, 48, conditions, 'font-size="12" fill="#777"')]
    for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500):
        if low <= tick <= top * 1.05:
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                         f'stroke="{"#999" if tick == 1 else "#e4e4e4"}"/>')
            parts.append(text(LEFT - 8, y(tick) + 4, f"{tick}x", 'text-anchor="end"'))
    for n in samples:
        parts.append(text(x(n), HEIGHT - BOTTOM + 20, n, 'text-anchor="middle"'))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "samples in the batch", 'text-anchor="middle"'))
    for k, d in enumerate(sizes):
        line = sorted((row["n"], row["ratio"]) for row in rows if row["d"] == d)
        color = COLOURS[k % len(COLOURS)]
        points = " ".join(f"{x(n):.1f},{y(ratio):.1f}" for n, ratio in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(n):.1f}" cy="{y(ratio):.1f}" r="3.5" fill="{color}"/>' for n, ratio in line]
        at = TOP + 22 * k + 8
        parts.append(f'<line x1="{WIDTH - RIGHT + 22}" x2="{WIDTH - RIGHT + 44}" y1="{at}" y2="{at}" stroke="{color}" '
                     'stroke-width="2"/>')
        parts.append(text(WIDTH - RIGHT + 50, at + 4, f"{d} x {d}"))
    return "\n".join(parts) + "\n</svg>\n"
