"""`make demo`: the recipe `demo` on generated data and tiny models; the score must rise as expected."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import driver  # noqa: E402
import generate  # noqa: E402


def write_inputs(folder: Path) -> None:
    """Raw rows, worked examples and the two base models."""
    generate.write_inputs(folder)
    import tiny_models  # imports torch: only when something is to be made

    tiny_models.write_models(folder, folder)


DEMO = driver.Demo(
    recipe="demo",
    scripts=(HERE / "generate.py", HERE / "tiny_models.py"),
    write_inputs=write_inputs,
    expected={
        "evaluate_base": driver.Bounds("data.off.exact", 0.0, 0.05),
        "evaluate_phase1": driver.Bounds("data.off.exact", 0.2, 0.8),
        "evaluate_phase2": driver.Bounds("data.on.exact", 0.9, 1.0),
    },
    right_answer="상자는 4개입니다.",
    parallel=2,
)

if __name__ == "__main__":
    sys.exit(driver.run(DEMO))
