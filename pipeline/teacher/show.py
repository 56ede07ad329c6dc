"""Validated rows and their measurements as text for people: a table per source, and samples spread over the set."""

from rich.console import Console

from pipeline.reporting.rows import OutputRows
from pipeline.reporting.samples import one_line, sample_panel
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.teacher.settings import ValidateSettings

SEED = 42


def summary(settings: ValidateSettings, manifest: Manifest) -> str:
    """Counts by source and reason, the rates that limits speak of, and the verdict."""
    measured = manifest.measurements
    total = measured["checked"]
    lines = [f"{'source':<28}{'checked':>10}{'passed':>10}{'share':>8}  rejected"]
    for source, numbers in measured["sources"].items():
        reasons = {name: n for name, n in numbers.items() if name not in ("checked", "passed")}
        words = ", ".join(f"{name} {n:,}" for name, n in sorted(reasons.items(), key=lambda item: -item[1]))
        share = numbers["passed"] / numbers["checked"]
        name = one_line(source)
        lines.append(f"{name:<28.28}{numbers['checked']:>10,}{numbers['passed']:>10,}{share:>8.1%}  {words}")
    rates = ", ".join(f"{name} {count / total:.1%}" for name, count in measured["counts"].items()) if total else ""
    verdict = settings.refusals(measured)
    lines += [f"{total:,} rows: {rates}", *(f"refused: {sentence}" for sentence in verdict or ())]
    return "\n".join(lines)


def print_samples(store: Store, manifest: Manifest, settings: ValidateSettings) -> None:
    """Print `num_samples` rows that passed and a quarter as many that did not, each with its reason."""
    console = Console()
    count = settings.num_samples
    for output, wanted in (("rows", count), ("rejects", -(-count // 4))):
        chosen = OutputRows(store, tuple(manifest.outputs.get(output, ())), True).sample(wanted, SEED) if wanted else []
        for number, row in enumerate(chosen, 1):
            console.print(sample_panel(row, number, len(chosen), settings.show_full))
