"""doctor: each thing that can be wrong with a store has its own line and remedy."""

from pathlib import Path

import pytest

from pipeline.store.doctor import Finding, gpu_finding, machine_findings, store_findings
from tests.conftest import use_s3
from tests.servers.s3 import S3Server


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_good_store_is_found_good_on_every_line(store_url: str) -> None:
    found = by_name(store_findings(store_url))
    assert {"store", "create-only writes", "store speed", "clock"} <= set(found)
    assert {finding.state for name, finding in found.items() if name != "store disk"} == {"ok"}


def test_a_store_that_ignores_conditions_is_noted(s3: S3Server, s3_store_url: str) -> None:
    found = by_name(store_findings(f"s3://{s3.new_bucket('unconditional-')}/x"))
    assert found["create-only writes"].state == "note" and "one writer" in found["create-only writes"].remedy
    assert found["store"].state == "ok"


def test_refused_credentials_and_missing_buckets_are_failures(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.new_bucket()
    for key, remedy in (("refused", "expiry"), ("expired", "Renew them")):
        use_s3(monkeypatch, s3.environment(access_key=key))
        [finding] = store_findings(f"s3://{bucket}/x")
        assert finding.state == "fail" and "refused the credentials" in finding.found and remedy in finding.remedy
    use_s3(monkeypatch, s3.environment())
    [finding] = store_findings("s3://there-is-no-such-bucket/x")
    assert finding.state == "fail" and "does not exist" in finding.found


def test_a_folder_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [finding] = store_findings(f"file://{tmp_path / 'file' / 'store'}")
    assert finding.state == "fail" and "cannot write" in finding.found


def test_the_machine_is_described_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    found = by_name(machine_findings())
    assert {"python", "cores", "memory", "torch", "vllm", "cache"} <= set(found)
    assert found["HF_TOKEN"].found == "set" and "hf_secret" not in str(found)


def test_a_cache_that_cannot_be_written_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "file" / "cache"))
    finding = by_name(machine_findings())["cache"]
    assert finding.state == "fail" and "HANFORGE_CACHE" in finding.remedy


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Tesla T4, 15360, 7.5, 550.54", "Tesla T4, 15.0 GiB, no bf16 in hardware: fp16"),
        ("NVIDIA H100 80GB HBM3, 81559, 9.0, 550.54", "79.6 GiB, bf16 in hardware"),
    ],
)
def test_bf16_is_what_the_card_does_in_hardware(line: str, words: str) -> None:
    assert words in gpu_finding(0, line).found
