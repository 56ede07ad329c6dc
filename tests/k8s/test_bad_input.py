"""Bad input to `hanforge deploy`: each with its own message, remedy and exit code 2, and nothing is created.

Everything goes through the command line to a real API server; where a cluster has to lack something, a proxy before it
says so.
"""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest

from k8s.client import CONFIGMAPS, JOBS, SERVICE_ACCOUNTS, Cluster, Resource
from k8s.connection import connect
from pipeline.errors import UserError
from pipeline.store.objects import Store
from tests.cluster.api import Api, Refused
from tests.cluster.conftest import api, object_store  # noqa: F401
from tests.conftest import use_s3
from tests.k8s.test_deploy import hanforge
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.cluster
RECIPE = """\
name: small
inputs: {raw: {}}
stages:
  first: {kind: prepare, source: {input: raw}, workers: 1}
  second: {kind: prepare, source: {input: raw}, after: [first], workers: 1}
"""
LONG = "a" * 54


@dataclass
class Place:
    """What a case may spoil: the kubeconfig as a document or as text, the values, the recipe, the environment."""

    here: Cluster
    s3: S3Server
    kubeconfig: dict[str, Any]
    values: dict[str, Any]
    folder: Path
    recipe: str = RECIPE
    text: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> dict[str, Any]:
        """The kubeconfig's cluster."""
        found: dict[str, Any] = self.kubeconfig["clusters"][0]["cluster"]
        return found

    def log_in(self, **user: Any) -> None:
        """Be somebody else."""
        self.kubeconfig["users"][0]["user"] = user

    def deploy(self, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> BaseException | None:
        """What `hanforge deploy` ends with."""
        paths = {name: self.folder / name for name in ("kubeconfig", "values.yaml", "small.yaml")}
        paths["kubeconfig"].write_text(json.dumps(self.kubeconfig) if self.text is None else self.text)
        paths["values.yaml"].write_text(json.dumps(self.values))
        paths["small.yaml"].write_text(self.recipe)
        for name, value in {"KUBECONFIG": str(paths["kubeconfig"]), **self.environment}.items():
            monkeypatch.setenv(name, value)
        recipe = str(paths["small.yaml"])
        command = ["deploy", *words[:2], "--recipe", recipe, *words[2:]]
        if words[:1] != ["stage"]:
            command = ["deploy", "chain", recipe, *words]
        usual = [] if "-n" in words else ["-n", self.here.namespace]
        return hanforge(*command, *usual, "-f", str(paths["values.yaml"])).exception


@pytest.fixture
def place(
    cluster: Path,
    here: Cluster,
    object_store: S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """A namespace, a store with its input, and a recipe that nothing speaks against."""
    use_s3(monkeypatch, object_store.environment())
    store = Store(f"s3://{object_store.new_bucket()}/store")
    store.put("inputs/raw/a.jsonl", b'{"messages": []}\n')
    values = {
        "store": {"url": store.url},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "profiles": {"cpu": {"host_cpus": 0.1, "host_memory_gib": 1}},
    }
    return Place(here, object_store, json.loads(cluster.read_text()), values, tmp_path)


def no_file(place: Place) -> None:
    place.environment["KUBECONFIG"] = "/nowhere/kubeconfig"


def broken_file(place: Place) -> None:
    place.text = "a: ["


def no_kubeconfig(place: Place) -> None:
    place.text = "{}"


def silent_server(place: Place) -> None:
    place.server["server"] = "https://127.0.0.1:9"


def other_server(place: Place) -> None:
    place.server["server"] = place.s3.endpoint


def other_authority(place: Place) -> None:
    place.server["certificate-authority-data"] = base64.b64encode(Path(certifi.where()).read_bytes()).decode()


def wrong_token(place: Place) -> None:
    place.log_in(token="none")


def no_log_in(place: Place) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "interactiveMode": "Never"}
    place.log_in(exec=command)


def no_rights(place: Place) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    place.here.create(SERVICE_ACCOUNTS, account)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = place.here.create(Resource("serviceaccounts/nobody/token"), asked) or {}
    place.log_in(token=token["status"]["token"])


def no_secret(place: Place) -> None:
    place.values["store"]["secret"] = "s33"


def misspelt(place: Place) -> None:
    place.values["tolerationz"] = []


def misspelt_within(place: Place) -> None:
    place.values["store"]["uri"] = "s3://bucket"


def wrong_type(place: Place) -> None:
    place.values["retries"] = "many"


def wrong_recipe(place: Place) -> None:
    place.recipe = RECIPE.replace("workers", "worker")


def no_store(place: Place) -> None:
    del place.values["store"]["url"]


def no_bucket(place: Place) -> None:
    place.values["store"]["url"] = "s3://no-such-bucket/store"


def refused_keys(place: Place) -> None:
    place.environment["AWS_ACCESS_KEY_ID"] = "refused"


def nothing(place: Place) -> None:
    """The words alone are bad."""


Spoil = Callable[[Place], None]
CASES: list[tuple[Spoil, list[str], str, str]] = [  # what is spoilt, more words, cause, remedy
    (no_file, [], "'/nowhere/kubeconfig' cannot be used: it does not exist", "Set KUBECONFIG"),
    (broken_file, [], "kubeconfig' is not valid YAML: while parsing a flow node", "Correct KUBECONFIG"),
    (no_kubeconfig, [], "kubeconfig' cannot be used", "Set KUBECONFIG"),
    (nothing, ["--context", "nope"], "has no context 'nope'", "It has: hanforge"),
    (silent_server, [], "https://127.0.0.1:9 (kubeconfig", "or correct the server's address"),
    (other_server, [], "answers, but is no Kubernetes API server (HTTP 404", "Correct the server's address"),
    (other_authority, [], "the certificates of the cluster and of the kubeconfig", "certificate-authority-data"),
    (wrong_token, [], "refuses the credentials", "Log in again"),
    (no_log_in, [], "takes you for nobody", "exec command"),
    (no_rights, [], "create, get, patch jobs.batch; ", "Ask for a Role there"),
    (nothing, ["-n", "nowhere"], "namespace 'nowhere' does not exist in https://", "kubectl create namespace nowhere"),
    (nothing, ["--release", LONG], "is too long: 54 characters, and its driver", "shorter one: --release NAME"),
    (nothing, ["--release", "My_Run"], "release name 'My_Run' is none", "--release my-run"),
    (wrong_recipe, [], "small.yaml:4: stages.first.worker: unknown key", "did you mean 'workers'?"),
    (nothing, ["stage", "frist"], "recipe 'small' has no stage 'frist'; did you mean 'first'?", "STAGE="),
    (nothing, ["stage", ""], "recipe 'small' has no stage ''; valid: first, second", "STAGE="),
    (nothing, ["stage", "second"], "needs 'first', which is not done", "make deploy-stage STAGE=first"),
    (nothing, ["--profile", "h10"], "unknown profile 'h10'", "did you mean 'h100'?"),
    (nothing, ["--profile", "a10g"], "product is 'Tesla-T4', wants NVIDIA-A10G", "choose another profile (--profile)"),
    (no_secret, [], "Secret 's33' does not exist in namespace", "kubectl create secret generic s33"),
    (misspelt, [], "values: unknown key 'tolerationz'; did you mean 'tolerations'?", "docs/charts.md"),
    (misspelt_within, [], "values: unknown key 'store.uri'; did you mean 'url'?", "docs/charts.md"),
    (wrong_type, [], "values: retries: got string, want integer", "Correct the values"),
    (nothing, ["-f", "none.yaml"], "values file 'none.yaml' cannot be read", "or name another"),
    (no_store, [], "no store is named", "Say --store s3://bucket/folder"),
    (no_bucket, [], "the bucket of s3://no-such-bucket/store does not exist", "Create it"),
    (refused_keys, [], "the store refused the credentials", "Check the keys"),
    (nothing, ["--input", "raw=s3://no-such-bucket/raw"], "no-such-bucket", "--input NAME=URL"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words", "cause", "remedy"), CASES, ids=lambda part: getattr(part, "__name__", None))
def test_bad_input_is_said_and_nothing_is_created(
    place: Place, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, words: list[str], cause: str, remedy: str
) -> None:
    spoil(place)
    error = place.deploy(monkeypatch, words)
    assert isinstance(error, UserError) and error.exit_code == 2, error
    assert cause in str(error) and remedy in str(error), str(error)
    names = [item["metadata"]["name"] for item in place.here.list(CONFIGMAPS)["items"]]
    assert names == ["kube-root-ca.crt"] and place.here.list(JOBS)["items"] == []


def test_good_input_has_nothing_against_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.deploy(monkeypatch, ["--dry-run"]) is None
    assert place.here.list(JOBS)["items"] == []


@pytest.fixture
def without_argo(api: Api) -> Iterator[str]:  # noqa: F811
    """The address of a proxy before the API server that answers as one without Argo's definitions does."""

    class Proxy(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                if self.path.startswith("/apis/argoproj.io"):
                    raise Refused(404, "page not found")
                status, found = 200, api.call(self.command, self.path, json.loads(body) if body else None)
            except Refused as error:
                status, found = error.status, {"message": str(error)}
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_cluster_without_argo_is_named(place: Place, without_argo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place.server["server"] = without_argo
    error = place.deploy(monkeypatch, ["--engine", "argo"])
    assert isinstance(error, UserError)
    assert "the cluster has no workflows.argoproj.io (v1alpha1): Argo Workflows is not installed" in str(error)
    assert error.remedy == "Install it, or deploy with engine: jobs"


def test_a_refused_key_ends_plan_with_2_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = place.folder / "small.yaml"
    recipe.write_text(RECIPE)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "refused")
    error = hanforge("plan", str(recipe), "--store", place.values["store"]["url"]).exception
    assert isinstance(error, UserError) and "the store refused the credentials" in str(error), error


def test_who_may_not_look_is_told_verb_and_resource(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    no_rights(place)
    path = place.folder / "nobody"
    path.write_text(json.dumps(place.kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UserError, match=r"not allowed to list jobs\.batch in namespace '.*': .*cannot list") as denied:
        connect(place.here.namespace).list(JOBS)
    assert "Ask for the verb 'list' on 'jobs.batch'" in denied.value.remedy
    error = hanforge("stop", "small", "-n", place.here.namespace).exception
    assert isinstance(error, UserError) and "not allowed to list" in str(error)
