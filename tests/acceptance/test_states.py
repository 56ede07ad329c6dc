"""What ends or holds a stage's pod, one release each, all at work side by side: its Job's state and `why`'s sentences.

Also where GPU profiles land, and that all of it happens in a namespace that enforces Pod Security "restricted". The
deployments begin together when the first test asks; each test waits for its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k8s.client import CONFIGMAPS, JOBS, NAMESPACES, PODS, Cluster, Object
from pipeline.errors import UserError
from pipeline.store.objects import Store
from tests.acceptance.world import asked_for_well, common_values, fresh_namespace, give_images, hanforge, state_of, wait
from tests.cluster import nodes, own
from tests.cluster.api import Api
from tests.conftest import use_s3
from tests.servers.s3 import S3Server
from tests.training.checkpoints import qwen3

pytestmark = pytest.mark.cluster
PREPARE = "kind: prepare, source: {input: raw}, workers: 1"  # each with settings of its own, or one would do for all
STAGES = {  # by release, which is its recipe's name
    "oom": {"small": f"{PREPARE}, max_chars: 91"},
    "wrong": {"split": f"{PREPARE}, heldout: {{rows: 1000}}"},
    "gate": {"checked": "kind: validate, source: {input: raw}"},
    "image": {"phase1": "kind: train, profile: cpu-core, base: {input: base}, data: {input: raw}, max_length: 128"},
    "unseen": {"only": f"{PREPARE}, max_chars: 96"},
    "waiting": {
        "other_card": f"{PREPARE}, profile: a10g, max_chars: 92",
        "other_pool": f"{PREPARE}, profile: rented, max_chars: 93",
    },
    "placed": {
        "pair": f"{PREPARE}, profile: t4-pair, max_chars: 94",
        "card": f"{PREPARE}, profile: h100, max_chars: 95",
    },
}
RENTED = {"precision": "fp32", "threads": 1, "host_memory_gib": 1, "host_cpus": 0.1, "node_labels": {"pool": "rented"}}
NOWHERE = "s3://no-such-bucket/store"
OWN: dict[str, dict[str, Any]] = {  # what a release's values say beside the common ones
    "oom": {"stages": {"small": {"memory": "64Mi"}}, "retries": 1},
    "image": {"images": {"data": "hanforge-data:latest", "train": "localhost:1/nowhere/train:1"}},
}


def row(n: int) -> bytes:
    """A row of training data; every other one reasons, which validate asks of all."""
    steps = f"<think>\n1단계: {n}에 하나를 더한다.\n2단계: {n + 1}이 된다.\n</think>\n\n" if n % 2 else ""
    said = {"user": f"{n} 더하기 하나는?", "assistant": f"{steps}{n + 1}"}
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in said.items()]}).encode() + b"\n"


@dataclass
class Scene:
    """The namespace and the store where all the releases are at work."""

    here: Cluster
    store: Store
    folder: Path

    def deploy(self, release: str, *words: str, **values: Any) -> list[str]:
        """The words of the command that deploys a release."""
        recipe, told = self.folder / f"{release}.yaml", self.folder / f"{release}-values.yaml"
        inputs = "inputs: {raw: {}, base: {}}" if release == "image" else "inputs: {raw: {}}"
        stages = [f"  {name}: {{{text}}}" for name, text in STAGES[release].items()]
        recipe.write_text("\n".join([f"name: {release}", inputs, "stages:", *stages]) + "\n")
        common = common_values(self.store.url)
        told.write_text(json.dumps(common | {"profiles": common["profiles"] | {"rented": RENTED}} | values))
        return ["deploy", "chain", str(recipe), "-n", self.here.namespace, "-f", str(told), *words]

    def jobs(self, release: str, selector: str = "hanforge.io/stage") -> list[Object]:
        """A release's Jobs: of its stages, or of what the selector says."""
        found = self.here.list(JOBS, f"app.kubernetes.io/instance={release},{selector}")["items"]
        return sorted(found, key=lambda job: str(job["metadata"]["name"]))

    def pods(self, release: str) -> list[Object]:
        """The pods of a release's stages."""
        return list(self.here.list(PODS, f"app.kubernetes.io/instance={release},hanforge.io/stage")["items"])

    def until(self, look: Any, seconds: float = 120) -> Any:
        """Wait; a wait that fails says what the cluster shows."""
        return wait(look, seconds, lambda: state_of(self.here))

    def delete_jobs(self, selector: str) -> None:
        """Delete the namespace's Jobs, and wait until their pods are gone too."""
        for job in self.here.list(JOBS, selector)["items"]:
            self.here.delete(JOBS, job["metadata"]["name"])
        self.until(lambda: not any(self.here.list(each, selector)["items"] for each in (PODS, JOBS)))

    def why(self, release: str) -> str:
        """What `hanforge why` says of its run."""
        return asked_for_well("why", f"latest@{release}", "--store", self.store.url)

    def failed(self, release: str, selector: str = "hanforge.io/stage") -> Object:
        """The status of the release's one Job once it has failed, with the condition's reason beside it."""

        def look() -> Object | None:
            for job in self.jobs(release, selector):
                for each in job.get("status", {}).get("conditions") or ():
                    if each["type"] == "Failed" and each["status"] == "True":
                        return {**job["status"], "reason": each["reason"]}
            return None

        found: Object = self.until(look)
        return found


@pytest.fixture(scope="module")
def scene(cluster: Path, api: Api, object_store: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything deployed, nothing waited for."""
    folder = tmp_path_factory.mktemp("states")
    give_images("h100-0", "data")
    give_images("t4-0", "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster))
        use_s3(patch, object_store.environment())
        store = Store(f"s3://{object_store.new_bucket()}/store")
        store.put("inputs/raw/a.jsonl", b"".join(row(n) for n in range(40)))
        for path in qwen3(folder / "base").iterdir():
            store.put(f"inputs/base/{path.name}", path.read_bytes())
        with fresh_namespace(api, object_store.environment()) as here:
            scene = Scene(here, store, folder)
            refused = hanforge(*scene.deploy("waiting")).exception
            assert isinstance(refused, UserError) and "wants NVIDIA-A10G" in str(refused), refused
            assert here.list(JOBS)["items"] == [] and len(here.list(CONFIGMAPS)["items"]) == 1  # kube-root-ca.crt
            for release in STAGES:
                words = {"waiting": ["--any-nodes"], "unseen": ["--unseen-store", "--store", NOWHERE]}.get(release, [])
                asked_for_well(*scene.deploy(release, *words, **OWN.get(release, {})))
            yield scene


def test_a_pod_that_is_not_restricted_is_refused_in_this_namespace(scene: Scene) -> None:
    labels = (scene.here.get(NAMESPACES, scene.here.namespace) or {})["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    template = scene.jobs("oom", "app.kubernetes.io/component=driver")[0]["spec"]["template"]["spec"]
    loose = {**template, "serviceAccountName": "default", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}, "spec": loose}
    with pytest.raises(UserError, match=r"create pods .* is refused: .*violates PodSecurity \"restricted") as no:
        scene.here.create(PODS, body)
    assert "runAsNonRoot" in str(no.value) and "lower" in no.value.remedy


def test_a_user_error_fails_its_job_at_once(scene: Scene) -> None:
    status = scene.failed("wrong")
    assert (status["reason"], status["failed"]) == ("PodFailurePolicy", 1)
    assert scene.failed("wrong", "app.kubernetes.io/component=driver")["reason"] == "PodFailurePolicy"
    said = scene.why("wrong")
    assert said.startswith("split: stage 'split': heldout.rows is 1,000, but only 40 rows pass"), said
    assert "Lower heldout.rows or loosen the rules" in said and "hanforge retry wrong" in said


def test_a_store_that_no_pod_reaches_is_told_by_the_driver(scene: Scene) -> None:
    assert scene.failed("unseen", "app.kubernetes.io/component=driver")["reason"] == "PodFailurePolicy"
    said = asked_for_well("why", "--release", "unseen", "--namespace", scene.here.namespace)
    assert said.startswith(f"driver: the bucket of {NOWHERE} does not exist. Create it"), said


def test_a_gate_that_refuses_fails_its_job_at_once(scene: Scene) -> None:
    status = scene.failed("gate")
    assert (status["reason"], status["failed"]) == ("PodFailurePolicy", 1)
    (pod,) = scene.pods("gate")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    said = scene.why("gate")
    assert (
        said.startswith("checked: the gate refuses: min_pass_rate 0.8 is missed by 0.300")
        and "Look at what was rejected" in said
    ), said


def test_pods_of_gpu_profiles_land_on_their_nodes_with_their_cards(scene: Scene) -> None:
    def ended() -> dict[str, Object]:
        pods = {pod["metadata"]["labels"]["hanforge.io/stage"]: pod for pod in scene.pods("placed")}
        return pods if [pod["status"]["phase"] for pod in pods.values()] == ["Succeeded"] * 2 else {}

    pods = scene.until(ended)
    assert {stage: pod["spec"]["nodeName"] for stage, pod in pods.items()} == {"pair": "t4-0", "card": "h100-0"}
    limits = {
        stage: pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for stage, pod in pods.items()
    }
    assert limits == {"pair": "2", "card": "1"}
    if own.running():
        assert {stage: len(cards(pod)) for stage, pod in pods.items()} == {"pair": 2, "card": 1}


def cards(pod: Object) -> list[str]:
    """The GPUs that the node's device plugin gave to the pod, from the environment of its container."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    info = nodes.run_in(pod["spec"]["nodeName"], "ctr", "--namespace", nodes.NAMESPACE, "containers", "info", container)
    environment = dict(each.split("=", 1) for each in json.loads(info)["Spec"]["process"]["env"])
    return environment["NVIDIA_VISIBLE_DEVICES"].split(",")


def test_a_pod_that_no_node_takes_waits_with_each_nodes_reason(scene: Scene) -> None:
    def told() -> str:
        said = scene.why("waiting")
        return said if said.count("(Unschedulable)") == 2 else ""

    said = scene.until(told)
    card, pool = said.splitlines()
    assert card.startswith("other_card: no node takes its pod (Unschedulable): 0/2 nodes are available"), said
    assert "t4-0: label nvidia.com/gpu.product is 'Tesla-T4', wants NVIDIA-A10G" in card
    assert "h100-0: label pool is missing, wants rented" in pool and "choose another profile (--profile)" in pool
    assert [pod["status"]["phase"] for pod in scene.pods("waiting")] == ["Pending"] * 2
    assert not any(job["status"].get("conditions") for job in scene.jobs("waiting"))


def test_an_image_that_is_nowhere_is_named_and_its_job_waits(scene: Scene) -> None:
    def told() -> str:
        said = scene.why("image")
        return said if "ImagePullBackOff" in said else ""

    said = scene.until(told)
    assert said.startswith("phase1: image localhost:1/nowhere/train:1 cannot be pulled (ImagePullBackOff)"), said
    assert "Correct images.* in the values or push that image" in said
    (job,) = scene.jobs("image")
    assert job["status"]["active"] == 1 and not job["status"].get("conditions")


def test_a_process_that_the_kernel_killed_for_memory_is_tried_again_and_then_given_up(scene: Scene) -> None:
    status = scene.failed("oom")
    assert (status["reason"], status["failed"]) == ("BackoffLimitExceeded", OWN["oom"]["retries"] + 1)
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in scene.pods("oom")]
    assert [(each["reason"], each["exitCode"]) for each in ended] == [("OOMKilled", 137)] * len(ended)
    said = scene.why("oom")
    assert said.startswith("small: its process was killed for want of memory at its limit of 64Mi (OOMKilled"), said
    assert "stages.small.memory" in said


def test_why_tells_the_same_when_pods_and_jobs_are_gone(scene: Scene) -> None:
    """The last of the file: it takes everything away."""
    causes = {
        "oom": "killed for want of memory at its limit of 64Mi",
        "wrong": "heldout.rows is 1,000",
        "gate": "the gate refuses",
        "image": "image localhost:1/nowhere/train:1 cannot be pulled",
        "waiting": "no node takes its pod (Unschedulable)",
    }
    scene.delete_jobs("app.kubernetes.io/component=driver")  # a driver that is there makes Jobs anew
    scene.delete_jobs("")
    for release, cause in causes.items():
        said = scene.why(release)
        assert cause in said and all(line.count(". ") for line in said.splitlines()), (release, said)
