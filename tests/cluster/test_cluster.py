"""The cluster does what hanforge's charts and driver rely on, shown with pods of busybox."""

import json

import pytest

from tests.cluster import nodes, pods
from tests.cluster.api import Api, Object, Refused
from tests.cluster.layout import API_SERVICE, KUBERNETES
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.cluster
NODES = ["h100-0", "t4-0"]
GPU = "nvidia.com/gpu"


@pytest.fixture(autouse=True)
def _our_nodes(api: Api) -> None:
    """These are proofs of the cluster that cluster-up builds; yours or kind's has other nodes and no busybox image."""
    if not set(NODES) <= set(pods.names(api.get("/api/v1/nodes")["items"])):
        pytest.skip(f"NOT OUR CLUSTER: it has no nodes {' and '.join(NODES)}")


@pytest.mark.parametrize("node", NODES)
def test_a_restricted_pod_runs_on_each_node(api: Api, namespace: str, node: str) -> None:
    script = (
        "id -u; touch /here 2>/dev/null || echo read-only; hostname -f 2>/dev/null; cat /proc/1/status | grep Seccomp:"
    )
    ended, log = pods.run(api, namespace, "one", pods.pod_spec(script, node))
    assert ended["status"]["phase"] == "Succeeded" and ended["spec"]["nodeName"] == node
    assert log.split()[:2] == ["8737", "read-only"] and log.split()[-1] == "2"


def test_an_unrestricted_pod_is_refused(api: Api, namespace: str) -> None:
    spec = pods.pod_spec("true")
    del spec["containers"][0]["securityContext"]
    with pytest.raises(Refused, match="violates PodSecurity") as refusal:
        api.create(pods.pod(namespace, "loose", spec))
    assert refusal.value.status == 403


def serve(api: Api, namespace: str, node: str) -> None:
    """A web server "web" on a node behind a Service of that name, waited for."""
    spec = pods.pod_spec("echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp", node)
    probe = {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1}
    spec["containers"][0]["readinessProbe"] = probe
    api.create(pods.pod(namespace, "web", spec, {"app": "web"}))
    ports = [{"port": 80, "targetPort": 8080}]
    api.create({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    })  # fmt: skip
    api.wait(pods.path(namespace, "web"), lambda pod: "Ready" in pods.conditions(pod))


@pytest.mark.parametrize("client", NODES)
@pytest.mark.parametrize("server", NODES)
def test_pods_reach_each_other_by_service_and_name(api: Api, namespace: str, server: str, client: str) -> None:
    serve(api, namespace, server)
    ask = f"ask http://web.{namespace}.svc.cluster.local/"
    script = f"for i in 1 2 3 4 5; do {ask} && break; sleep 1; done; ask http://web/"
    ended, log = pods.run(api, namespace, "client", pods.pod_spec(script, client))
    assert ended["status"]["phase"] == "Succeeded", log
    assert log == "hello\nhello\n"


@pytest.mark.parametrize("node", NODES)
def test_pods_reach_the_api_server_at_its_service_address(api: Api, namespace: str, node: str) -> None:
    script = f"ask https://kubernetes.default.svc/version; ask https://{API_SERVICE}/version"
    spec = pods.pod_spec(script, node) | {"automountServiceAccountToken": True}
    _, log = pods.run(api, namespace, "client", spec)
    assert log.count(f'"gitVersion": "{KUBERNETES}"') == 2


def test_a_name_outside_the_cluster_is_denied_at_once(api: Api, namespace: str) -> None:
    _, log = pods.run(api, namespace, "client", pods.pod_spec("ask http://example.org"))
    assert "no such host" in log


@pytest.mark.parametrize("node", NODES)
def test_pods_reach_an_object_store_on_the_machine(api: Api, namespace: str, object_store: S3Server, node: str) -> None:
    bucket = object_store.new_bucket()
    _, log = pods.run(api, namespace, "client", pods.pod_spec(f"ask {object_store.endpoint}/{bucket}", node))
    assert f"<Name>{bucket}</Name>" in log


def test_an_indexed_job_runs_each_index(api: Api, namespace: str) -> None:
    spec = pods.pod_spec("echo index $JOB_COMPLETION_INDEX")
    settings = {"completionMode": "Indexed", "completions": 4, "parallelism": 2, "backoffLimitPerIndex": 1}
    api.create(pods.job(namespace, "indexed", spec, **settings))
    job = api.wait(f"/apis/batch/v1/namespaces/{namespace}/jobs/indexed", pods.job_is_over)
    assert job["status"]["completedIndexes"] == "0-3" and "Complete" in pods.conditions(job)


def test_exit_code_2_fails_a_job_at_once(api: Api, namespace: str) -> None:
    rule = {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [2, 3]}}
    job = pods.job(namespace, "refused", pods.pod_spec("exit 2"), backoffLimit=6, podFailurePolicy={"rules": [rule]})
    api.create(job)
    job = api.wait(f"/apis/batch/v1/namespaces/{namespace}/jobs/refused", pods.job_is_over)
    assert pods.conditions(job)["Failed"]["reason"] == "PodFailurePolicy" and job["status"]["failed"] == 1


def pair_spec(script: str) -> Object:
    """A pod that wants both GPUs of a node that has at least two T4s."""
    spec = pods.pod_spec(script, limits={GPU: "2"})
    wanted = [
        {"key": f"{GPU}.product", "operator": "In", "values": ["Tesla-T4"]},
        {"key": f"{GPU}.count", "operator": "Gt", "values": ["1"]},
    ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return spec


def test_a_pair_of_t4_lands_on_t4_0_and_the_next_waits(api: Api, namespace: str) -> None:
    api.create(pods.pod(namespace, "first", pair_spec("echo $NVIDIA_VISIBLE_DEVICES; sleep 60")))
    api.wait(pods.path(namespace, "first"), lambda pod: "Ready" in pods.conditions(pod))
    first = api.get(pods.path(namespace, "first"))
    assert first["spec"]["nodeName"] == "t4-0"
    log = api.get(pods.path(namespace, "first") + "/log")
    assert sorted(log.strip().split(",")) == ["0", "1"]
    api.create(pods.pod(namespace, "second", pair_spec("true")))
    second = api.wait(pods.path(namespace, "second"), lambda pod: bool(pod["status"].get("conditions")))
    message = second["status"]["conditions"][0]["message"]
    assert "1 Insufficient nvidia.com/gpu" in message and "node affinity" in message


def test_gpus_outlive_a_restart_of_the_kubelet(api: Api, namespace: str) -> None:
    nodes.kill_kubelet("t4-0")
    ended, log = pods.run(api, namespace, "pair", pair_spec("echo $NVIDIA_VISIBLE_DEVICES"), timeout_seconds=90)
    assert ended["status"]["phase"] == "Succeeded", ended["status"]
    assert len(log.split(",")) == 2


def test_memory_over_the_limit_is_oom_killed(api: Api, namespace: str) -> None:
    spec = pods.pod_spec("exec dd if=/dev/zero of=/dev/null bs=200M count=1", limits={"memory": "32Mi"})
    ended, _ = pods.run(api, namespace, "greedy", spec)
    how = pods.terminated(ended)
    assert (how["reason"], how["exitCode"]) == ("OOMKilled", 137)


def test_a_pod_asked_to_stop_gets_its_grace(api: Api, namespace: str) -> None:
    script = "trap 'sleep 1; echo saved > /dev/termination-log; exit 143' TERM; while :; do sleep 0.1; done"
    item = pods.pod(namespace, "stopped", pods.pod_spec(script) | {"terminationGracePeriodSeconds": 20})
    item["metadata"]["finalizers"] = ["hanforge.test/look"]
    api.create(item)
    path = pods.path(namespace, "stopped")
    api.wait(path, lambda pod: "Ready" in pods.conditions(pod))
    api.delete(path)
    how = pods.terminated(api.wait(path, pods.is_over))
    api.call("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    assert (how["exitCode"], how["message"]) == (143, "saved\n")


def test_argo_runs_a_dag_of_two_steps(api: Api, namespace: str) -> None:
    allow_argo(api, namespace)
    api.create(workflow(namespace))
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows/two"
    done = api.wait(path, lambda item: item.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error"), 180)
    assert done["status"]["phase"] == "Succeeded", json.dumps(done["status"])[:2000]
    steps = {step["displayName"]: step for step in done["status"]["nodes"].values() if step["type"] == "Pod"}
    assert steps["second"]["inputs"]["parameters"][0]["value"] == "from the first"
    assert {step["hostNodeName"] for step in steps.values()} == {"h100-0", "t4-0"}


def jobset(namespace: str, name: str = "gang") -> Object:
    """A JobSet of two pods on two nodes: the first one fails once, and each looks for the other by name afterwards."""
    peer = f"{name}-pods-0-$((1 - JOB_COMPLETION_INDEX)).{name}"
    script = f"""
        [ $JOB_COMPLETION_INDEX$ATTEMPT = 00 ] && exit 1
        echo here > /tmp/index.html; httpd -p 8080 -h /tmp
        until ask http://{peer}:8080/; do sleep 1; done; sleep 5"""
    spec = pods.pod_spec(script)
    attempt = {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"}
    spec["containers"][0]["env"] = [{"name": "ATTEMPT", "valueFrom": {"fieldRef": attempt}}]
    labels = {"gang": name}
    apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    template = {"metadata": {"labels": labels}, "spec": spec}
    job = {"spec": {"completions": 2, "parallelism": 2, "backoffLimit": 0, "template": template}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {"failurePolicy": {"maxRestarts": 1}, "replicatedJobs": [{"name": "pods", "template": job}]},
    }  # fmt: skip


def test_a_jobset_starts_all_its_pods_again_when_one_fails(api: Api, namespace: str) -> None:
    asked = api.create(jobset(namespace))
    assert asked["spec"]["replicatedJobs"][0]["template"]["spec"]["completionMode"] == "Indexed"  # by its webhook
    path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/gang"
    done = api.wait(path, lambda item: item.get("status", {}).get("terminalState"))
    assert (done["status"]["terminalState"], done["status"]["restarts"]) == ("Completed", 1), done["status"]


def test_a_jobset_that_cannot_be_is_refused(api: Api, namespace: str) -> None:
    with pytest.raises(Refused, match="JobSet name is too long"):
        api.create(jobset(namespace, "a" * 60))


def allow_argo(api: Api, namespace: str) -> None:
    """Let the pods of a namespace report to Argo: create and patch workflowtaskresults."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "executor", "namespace": namespace}
    rule = {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    role = {"apiGroup": group, "kind": "Role", "name": "executor"}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    version = f"{group}/v1"
    api.create({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]})
    binding = {"apiVersion": version, "kind": "RoleBinding", "metadata": metadata}
    api.create({**binding, "roleRef": role, "subjects": [account]})


def workflow(namespace: str) -> Object:
    """A Workflow: `first` on h100-0 writes a parameter that `second` on t4-0 prints."""

    def template(name: str, script: str, node: str, **more: Object) -> Object:
        spec = pods.pod_spec(script, node)
        container = {**spec["containers"][0], "name": "main"}
        keep = {key: spec[key] for key in ("tolerations", "nodeSelector", "volumes")}
        return {"name": name, "container": container, **keep, **more}

    value = {"parameters": [{"name": "word", "valueFrom": {"path": "/tmp/word"}}]}
    passed = {"parameters": [{"name": "word", "value": "{{tasks.first.outputs.parameters.word}}"}]}
    tasks = [
        {"name": "first", "template": "first"},
        {"name": "second", "template": "second", "dependencies": ["first"], "arguments": passed},
    ]
    spec = {
        "entrypoint": "both", "securityContext": pods.RESTRICTED_POD,
        "templates": [
            {"name": "both", "dag": {"tasks": tasks}},
            template("first", "echo -n from the first > /tmp/word", "h100-0", outputs=value),
            template("second", "echo {{inputs.parameters.word}}", "t4-0", inputs={"parameters": [{"name": "word"}]}),
        ],
    }  # fmt: skip
    metadata = {"name": "two", "namespace": namespace}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}
