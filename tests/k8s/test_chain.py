"""Jobs' names and what the chart hands over; values laid over each other; no cluster needed."""

import dataclasses
from pathlib import Path

import pytest

from k8s.chain import Chain, read_chain
from k8s.helm import laid_over, read_values
from pipeline.errors import UserError

LABELS = {"app.kubernetes.io/instance": "demo"}


def chain(run: str = "demo-1-0", image: str = "a") -> Chain:
    manifest = {"kind": "Job", "metadata": {"name": "demo-merge-1", "labels": LABELS}, "spec": {"image": image}}
    return Chain(run, {"merge_1": ()}, {"merge_1": manifest}, "demo-manifests")


def test_a_jobs_name_ends_in_a_hash_of_its_manifest_and_run() -> None:
    name = chain().job_name("merge_1")
    assert name.startswith("demo-merge-1-") and len(name) == len("demo-merge-1-") + 10
    assert chain().job_name("merge_1") == name
    assert len({name, chain(run="demo-1-1").job_name("merge_1"), chain(image="b").job_name("merge_1")}) == 3


def test_a_job_is_owned_by_the_releases_configmap_and_its_manifest_is_left_alone() -> None:
    whole = chain()
    before = dataclasses.asdict(whole)
    job = whole.job("merge_1", {"metadata": {"name": "demo-manifests", "uid": "u"}})
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert job["metadata"]["name"] == whole.job_name("merge_1")
    assert dataclasses.asdict(whole) == before


def test_a_folder_without_a_chain_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chain of the hanforge chart is there") as refused:
        read_chain(tmp_path)
    assert "hanforge deploy" in refused.value.remedy


def test_values_are_laid_over_as_helm_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("store: {url: a, secret: s}\nonly: [x, y]\n")
    two.write_text("store: {url: b}\nonly: [z]\n")
    assert read_values([str(one), str(two)]) == {"store": {"url": "b", "secret": "s"}, "only": ["z"]}
    assert laid_over({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}


@pytest.mark.parametrize("text", ["a: [", "- a\n", None])
def test_a_values_file_that_is_none_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "values.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"values file '.*values\.yaml'"):
        read_values([str(path)])
