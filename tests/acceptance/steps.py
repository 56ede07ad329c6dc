"""The parts of `make test-cluster` in order: one limit for all, the seconds of each, and the table."""

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.layout import KUBECONFIG, ROOT

END_SECONDS = 120.0  # how long a process that was interrupted may take to put things in order


class Failed(Exception):
    """A part failed, or the limit was reached: what follows has no sense."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: str
    seconds: float
    result: str


class Steps:
    """Runs parts until the limit and keeps what each took."""

    def __init__(self, limit_seconds: float) -> None:
        self.failed = False
        self._limit = limit_seconds
        self._deadline = time.monotonic() + limit_seconds
        self._rows: list[Row] = []

    def run(self, part: str, *command: str, **environment: str) -> None:
        """Run a part; raises Failed when it fails or does not end before the limit."""
        self._one(part, command, self._deadline - time.monotonic(), environment)

    def end(self, part: str, *command: str) -> None:
        """Run a part that puts things in order: past the limit too, and without an end to what follows."""
        try:
            self._one(part, command, END_SECONDS * 3, {})
        except Failed as error:
            self.failed = True
            print(f"test-cluster: {error}", flush=True)

    def prove(self, *command: str, skips: bool) -> None:
        """Run pytest, and take its tests into the table: each proof by itself, other folders as one line.

        Unless `skips`, a test that is skipped counts as one that failed: nothing is missing then.
        """
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            try:
                self._one("tests", (*command, f"--junitxml={report}"), self._deadline - time.monotonic(),
                          {"KUBECONFIG": str(KUBECONFIG)})  # fmt: skip
            finally:
                if report.exists():
                    self._rows += proofs(report)
                    self._refuse_skips(report, skips)

    def _refuse_skips(self, report: Path, skips: bool) -> None:
        for case in ElementTree.parse(report).iter("testcase"):
            skipped = case.find("skipped")
            if skipped is not None and not skips:
                self.failed = True
                print(f"test-cluster: {case.get('name')} was skipped: {skipped.get('message')}", flush=True)

    def _one(self, part: str, command: tuple[str, ...], seconds: float, environment: dict[str, str]) -> None:
        print(f"\n== test-cluster: {part}", flush=True)
        began = time.monotonic()
        result = "interrupted"
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(max(1.0, seconds))
            result = "ok" if code == 0 else f"FAILED, exit code {code}"
        except subprocess.TimeoutExpired:
            result = "FAILED, at the limit"
            raise Failed(f"the limit of {self._limit / 60:.0f} minutes was reached in the part {part!r}") from None
        finally:
            _end(process)
            self._rows.append(Row(part, time.monotonic() - began, result))
        if code != 0:
            raise Failed(f"{part} failed with exit code {code}")

    def table(self) -> str:
        """Every part with its seconds and how it ended."""
        wide = max(len(row.part) for row in self._rows) if self._rows else 0
        return "\n".join(f"{row.part:<{wide}}  {row.seconds:7.0f} s  {row.result}" for row in self._rows)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process that still runs to stop, wait, and kill what is left of its group."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def proofs(report: Path) -> list[Row]:
    """The rows of a JUnit report: a test of tests/acceptance by its name, every other folder summed up."""
    rows: list[Row] = []
    others: dict[str, list[tuple[float, str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").removeprefix("tests.")
        result = next((f"{child.tag.upper()}" for child in case if child.tag in ("failure", "error", "skipped")), "ok")
        seconds = float(case.get("time", 0))
        if module.startswith("acceptance"):
            name = case.get("name", "").removeprefix("test_").replace("_", " ")
            rows.append(Row(f"  {module.removeprefix('acceptance.test_')}: {name}", seconds, result))
        else:
            others.setdefault(module.split(".")[0], []).append((seconds, result))
    summed = []
    for folder, found in others.items():
        results = [result for _, result in found]
        said = ", ".join(f"{results.count(each)} {each}" for each in sorted(set(results)))
        summed.append(Row(f"  tests/{folder}", sum(seconds for seconds, _ in found), said))
    return summed + rows
