"""Fixtures that every room shares: a store on a local folder, on a real S3 API, and on one that fails now and then."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.servers.faulty_proxy import FaultyProxy, faulty_proxy
from tests.servers.hub import HubServer, hub_server
from tests.servers.s3 import S3Server, s3_server


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a failure when it happens, by the process that prints: a run that is cut off has no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}", file=sys.__stdout__, flush=True)


@pytest.fixture(autouse=True)
def _not_offline() -> None:
    """A training takes the Hub away from its process: give it back to the tests that follow in this one."""
    os.environ.pop("HF_HUB_OFFLINE", None)
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = False


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the whole test run; tests keep apart by their buckets."""
    with s3_server() as server:
        yield server


def use_s3(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Point every S3 client of this process and its children at a server, forgetting earlier connections."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3_store_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An s3:// store in a bucket of its own, with the AWS_* variables set."""
    use_s3(monkeypatch, s3.environment())
    return f"s3://{s3.new_bucket()}/store"


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store, once as file:// and once as s3://."""
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    url: str = request.getfixturevalue("s3_store_url")
    return url


@pytest.fixture
def faulty_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy in front of the S3 server, at first without faults: set `.rate`, or `.plan(...)` the next faults.

    The AWS_* variables point at the proxy; `s3://` + `s3.new_bucket()` makes a bucket behind it.
    """
    with faulty_proxy(s3.endpoint, rate=0.0, seed=1) as proxy:
        use_s3(monkeypatch, s3.environment(proxy.address))
        yield proxy


@pytest.fixture
def faulty_s3_store_url(s3: S3Server, faulty_s3: FaultyProxy) -> str:
    """An s3:// store whose answers fail at a rate of 5 %, seeded."""
    faulty_s3.rate = 0.05
    return f"s3://{s3.new_bucket()}/store"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of one's own, empty at first, with HF_ENDPOINT pointing at it and no token."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with hub_server(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
