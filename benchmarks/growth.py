"""prepare at 0.2 to 3.2 million rows: time and memory as a table and a plot: python -m benchmarks.growth [--svg FILE]

Rows are short (0.6 KB), so that the largest input is 1.9 GB; what grows with the rows is their number, not their bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prepare import CACHE, WAYS, Measured, measured
from benchmarks.synthetic import generate

ROWS = (200_000, 400_000, 800_000, 1_600_000, 3_200_000)
WORDS = 64
WIDTH, HEIGHT, MARGIN = 420, 240, 50


def panel(left: int, title: str, rows: Sequence[int], values: Sequence[float], colour: str) -> str:
    """One plot of an SVG picture: values over rows, both from zero."""
    most = max(values) * 1.15
    points = [
        (left + MARGIN + WIDTH * count / max(rows), MARGIN + HEIGHT * (1 - value / most))
        for count, value in zip(rows, values, strict=True)
    ]
    bottom = MARGIN + HEIGHT
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [
        f'<text x="{left + MARGIN}" y="{MARGIN - 18}" font-weight="bold">{title}</text>',
        f'<path d="M{left + MARGIN} {MARGIN}V{bottom}h{WIDTH}" fill="none" stroke="#888"/>',
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
    ]
    for (x, y), count, value in zip(points, rows, values, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{value:.{0 if value >= 30 else 1}f}</text>'
        )
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{count / 1e6:g}</text>')
    parts.append(f'<text x="{left + MARGIN + WIDTH}" y="{bottom + 36}" text-anchor="end">million rows</text>')
    return "\n".join(parts)


def picture(rows: Sequence[int], found: Sequence[Measured]) -> str:
    """Both plots side by side."""
    panels = [
        panel(0, "seconds", rows, [run.seconds for run in found], "#2563eb"),
        panel(WIDTH + MARGIN, "peak memory, MB over all processes", rows, [run.peak for run in found], "#dc2626"),
    ]
    size = f'width="{2 * WIDTH + 3 * MARGIN}" height="{HEIGHT + 2 * MARGIN}"'
    style = 'font-family="sans-serif" font-size="12" style="background:#fff"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(panels) + "\n</svg>\n"


def main() -> None:
    """Generate, run, print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path, default=Path("docs/prepare-growth.svg"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--generate-only", action="store_true")
    options = parser.parse_args()
    folders = {count: CACHE / f"growth-{count}" for count in options.rows}
    sizes = {count: generate(folder, count, WORDS) for count, folder in folders.items()}
    if options.generate_only:
        return
    print(f"{'rows':>10} {'MB':>6} {'seconds':>8} {'us a row':>9} {'CPU s':>6} {'peak MB':>8}")
    found = []
    for count, folder in folders.items():
        arguments = [str(folder), str(count * 8 // 25), str(options.workers)]
        run = measured(WAYS["hanforge prepare"], Path(sys.executable), arguments)
        found.append(run)
        each = f"{run.seconds:8.1f} {run.seconds / count * 1e6:9.1f} {run.cpu:6.1f} {run.peak:8.0f}"
        print(f"{count:10,} {sizes[count] / 1e6:6.0f} {each}", flush=True)
    options.svg.write_text(picture(options.rows, found))


if __name__ == "__main__":
    main()
