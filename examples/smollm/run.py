"""`make demo-smollm`: a real pretrained model, SmolLM2-135M-Instruct, learns to read Korean numbers."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import driver  # noqa: E402
import generate  # noqa: E402


def write_inputs(folder: Path) -> None:
    """The rows, and the checkpoint out of its package."""
    generate.write_rows(folder, rows=2200)
    import convert  # imports torch: only when something is to be made

    convert.convert(folder / "smollm")


DEMO = driver.Demo(
    recipe="demo-smollm",
    scripts=(HERE / "generate.py", HERE / "convert.py"),
    write_inputs=write_inputs,
    expected={
        "evaluate_base": driver.Bounds("data.off.exact", 0.0, 0.2),
        "evaluate_phase1": driver.Bounds("data.off.exact", 0.8, 1.0),
    },
    right_answer="9876",
)

if __name__ == "__main__":
    sys.exit(driver.run(DEMO))
