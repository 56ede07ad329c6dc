"""What is wrong with a kubeconfig, a server or a user's rights: each its own message, against a real API server."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.client import JOBS, SERVICE_ACCOUNTS, Cluster, Object, Resource
from k8s.connection import connect, reachable
from k8s.deploy import check
from pipeline.errors import UserError
from pipeline.store.retry import patience

Config = Callable[..., Path]


def refusal(path: Path, monkeypatch: pytest.MonkeyPatch, context: str | None = None) -> UserError:
    """What connecting with this kubeconfig ends with."""
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UserError) as refused, patience(0.5):
        reachable(connect("default", context))
    assert refused.value.remedy
    return refused.value


@pytest.mark.parametrize(
    ("text", "cause"), [(None, "does not exist"), ("a: [", "not valid YAML"), ("{}", "cannot be used")]
)
def test_a_kubeconfig_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cause: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    assert cause in str(refusal(path, monkeypatch))


@pytest.fixture
def config(cluster: Path, tmp_path: Path) -> Config:
    """Writes the cluster's kubeconfig with another server, authority or user."""

    def write(server: str | None = None, authority: str | None = None, user: dict[str, Any] | None = None) -> Path:
        document = json.loads(cluster.read_text())
        told = document["clusters"][0]["cluster"]
        told["server"] = server or told["server"]
        told["certificate-authority-data"] = authority or told["certificate-authority-data"]
        if user is not None:
            document["users"][0]["user"] = user
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.mark.cluster
def test_a_context_that_is_not_there(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no context 'nope'" in str(refusal(config(), monkeypatch, "nope"))


@pytest.mark.cluster
def test_a_server_that_does_not_answer(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "https://127.0.0.1:9 (kubeconfig" in str(refusal(config(server="https://127.0.0.1:9"), monkeypatch))


@pytest.mark.cluster
def test_a_server_of_another_authority(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    import certifi

    other = base64.b64encode(Path(certifi.where()).read_bytes()).decode()
    assert "the certificates of the cluster" in str(refusal(config(authority=other), monkeypatch))


@pytest.mark.cluster
def test_a_user_that_the_server_does_not_know(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refuses the credentials" in str(refusal(config(user={"token": "none"}), monkeypatch))


@pytest.mark.cluster
def test_a_user_without_rights_learns_verbs_and_resources(
    here: Cluster, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    asked: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = here.create(Resource("serviceaccounts/nobody/token"), asked)
    assert token is not None
    monkeypatch.setenv("KUBECONFIG", str(config(user={"token": token["status"]["token"]})))
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"spec": {}}}}
    nobody = connect(here.namespace)
    with pytest.raises(UserError) as refused:
        check(nobody, [job | {"spec": {"template": {"spec": {"containers": []}}}}])
    assert "create, get, patch jobs.batch" in str(refused.value)
    assert "update secrets" in str(refused.value) and "Helm keeps its record in secrets" in str(refused.value)
    with pytest.raises(UserError, match=r"not allowed to list jobs\.batch in namespace '.*': .*cannot list") as denied:
        nobody.list(JOBS)
    assert "Ask for the verb 'list' on 'jobs.batch'" in denied.value.remedy
