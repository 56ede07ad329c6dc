"""What values do to stages: scope, workers, engines beside them, several nodes, Kueue; what is refused, by name."""

import re
from typing import Any

import pytest
from helm_python import HelmError

from k8s.chain import template_of
from tests.charts.rendering import STORE, Object, chart, check_argo, check_kubernetes, manifests, objects, one, texts


def pod(values: dict[str, Any], stage: str) -> Object:
    spec: Object = manifests(objects({"recipeName": "korean-vla", **values}))[stage]["spec"]["template"]["spec"]
    return spec


def environment(container: Object) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_only_narrows_the_scope_and_no_stage_stands_twice() -> None:
    found = manifests(objects({"recipeName": "korean-vla", "only": ["phase2", "phase2"]}))
    assert set(found) == {"chain", "phase2"}
    assert found["chain"]["stages"] == [{"name": "phase2", "needs": ["merge1", "validate"]}]
    workflow = one(objects({"recipeName": "korean-vla", "only": ["phase2"], "engine": "argo"}), "Workflow")
    chain, preflight, phase2 = workflow["spec"]["templates"]
    assert [task["name"] for task in chain["dag"]["tasks"]] == ["preflight", "phase2"]
    assert chain["dag"]["tasks"][1]["depends"] == "preflight" and phase2["name"] == "phase2"
    assert [output["name"] for output in preflight["outputs"]["parameters"]] == ["phase2"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "no recipe is given"),
        ({"recipeName": "korean-vl"}, "valid: .*demo, .*korean-vla"),
        ({"recipeName": "demo", "recipe": "x"}, "both set"),
        ({"recipe": "name: x\nstages: {}"}, "has no digest. Give what this prints: hanforge render"),
        ({"recipe": "name: [x"}, "not valid YAML"),
        ({"recipeName": "demo", "only": ["phase3"]}, 'only: recipe "demo" has no stage "phase3"; valid: .*phase2'),
        ({"recipeName": "demo", "stages": {"phase3": {}}}, 'stages: .*no stage "phase3"'),
        ({"recipeName": "demo", "workers": {"phase3": 2}}, 'workers: .*no stage "phase3"'),
        ({"recipeName": "demo", "workers": {"phase1": 2}}, "workers.phase1: a train stage is one process"),
        ({"recipeName": "demo", "inputs": {"rwa": "s3://x/y"}}, 'no input "rwa"; valid: .*raw'),
        ({"recipeName": "demo", "profile": "h1000"}, 'unknown profile "h1000"; valid: .*h100'),
        ({"recipeName": "demo", "stages": {"phase1": {"profile": "b"}}}, 'stage "phase1": unknown profile "b"'),
        ({"recipeName": "demo", "stages": {"phase1": {"endpoint": "http://x/v1"}}}, "a train stage asks no endpoint"),
        ({"recipeName": "demo", "store": {"url": ""}}, "store.url is not set"),
        ({"recipeName": "demo", "store": {"url": "s3://key:word@b/f"}}, "store.url holds a user or password"),
        ({"recipeName": "demo", "inputs": {"raw": "https://u:p@h/x"}}, "raw holds a user or password"),
        ({"recipeName": "demo", "env": [{"name": "HF_TOKEN", "value": "x"}]}, "env HF_TOKEN: a secret is not written"),
        ({"recipeName": "demo", "engineSidecar": {"clientMemoryGib": 16}}, 'profile "cpu" has 16 GiB of memory'),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        texts(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipeNmae": "demo"}, "'recipeNmae' not allowed[^$]*'recipeName'"),
        ({"store": {"ulr": "s3://x"}}, "'ulr' not allowed[^$]*'url'"),
        ({"images": {"trian": "x"}}, "'trian' not allowed[^$]*'train'"),
        ({"stages": {"phase1": {"memroy": "1Gi"}}}, "'memroy' not allowed[^$]*'memory'"),
        ({"profiles": {"h100": {"host_memroy_gib": 1}}}, "'host_memroy_gib' not allowed[^$]*'host_memory_gib'"),
        ({"profiles": {"h100": {"gpu": {"cuont": 1}}}}, "'cuont' not allowed[^$]*'count'"),
        ({"engine": "job"}, "/engine[^$]*'jobs', 'argo'"),
        ({"gang": "jobs"}, "/gang[^$]*'auto', 'job', 'jobset'"),
        ({"salt": "1"}, "/salt[^$]*want integer"),
        ({"workers": {"prepare": 0}}, "/workers/prepare"),
        ({"driver": {"memory": "lots"}}, "/driver/memory"),
    ],
)
def test_a_misspelt_value_is_refused_with_the_right_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError, match=words):
        chart().validate_schema({"recipeName": "demo", **values})


def test_a_long_release_name_is_refused_with_the_arithmetic() -> None:
    values = {"recipeName": "korean-vla"}
    texts(values, name="r" * 34)
    with pytest.raises(HelmError, match='35 characters, and stage "prepare_reasoning" leaves room for 34'):
        texts(values, name="r" * 35)
    with pytest.raises(HelmError, match='stage "prepare_reasoning" leaves room for 31'):
        texts({**values, "only": ["prepare_reasoning"], "workers": {"prepare_reasoning": 11}}, name="r" * 34)
    with pytest.raises(HelmError, match='stage "phase1" leaves room for 30'):
        texts({**GANG, "only": ["phase1"], "gang": "jobset"}, name="r" * 31)
    texts({**values, "only": ["serve"]}, name="r" * 45)
    with pytest.raises(HelmError, match="its driver leaves room for 45"):
        texts({**values, "only": ["serve"]}, name="r" * 46)


def test_each_kind_runs_in_its_image() -> None:
    found = manifests(objects({"recipeName": "demo"}))
    images = {"data": set[str](), "train": set[str](), "serve": set[str]()}
    for name, job in found.items():
        if name != "chain":
            image = job["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[0].split("-")[1]
            images[image].add(job["metadata"]["labels"]["hanforge.io/kind"])
    assert images == {
        "data": {"prepare", "augment", "validate", "promote"},
        "train": {"train", "merge", "evaluate"},  # the demo evaluates by transformers
        "serve": {"serve"},
    }


def test_an_engine_runs_beside_its_client_and_has_the_gpu() -> None:
    for stage, variable in (
        ("augment", "HANFORGE_TEACHER_ENDPOINT"),
        ("evaluate_phase1", "HANFORGE_EVALUATE_ENDPOINT"),
    ):
        spec = pod({}, stage)
        (engine,), (client,) = spec["initContainers"], spec["containers"]
        assert engine["restartPolicy"] == "Always" and "startupProbe" not in engine
        assert engine["args"] == ["engine", "--for", f"{environment(client)['HANFORGE_RUN']}:{stage}"]
        assert engine["resources"]["limits"] == {"memory": "126976Mi", "nvidia.com/gpu": "1"}
        assert client["resources"]["limits"] == {"memory": "4096Mi"}
        assert client["image"].startswith("hanforge-data") and engine["image"].startswith("hanforge-serve")
        assert environment(client)[variable] == "http://127.0.0.1:8000/v1"


def test_a_teacher_elsewhere_takes_no_gpu_here() -> None:
    spec = pod({"stages": {"augment": {"endpoint": "http://teacher:8000/v1"}}}, "augment")
    assert "initContainers" not in spec and "affinity" not in spec
    assert environment(spec["containers"][0])["HANFORGE_TEACHER_ENDPOINT"] == "http://teacher:8000/v1"
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "4096Mi"}


def test_workers_make_an_indexed_job_and_a_sequence() -> None:
    values = {"recipeName": "demo", "workers": {"prepare": 3}}
    spec = manifests(objects(values))["prepare"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == 6 and "backoffLimit" not in spec
    assert environment(spec["template"]["spec"]["containers"][0])["HANFORGE_OF"] == "3"
    workflow = one(objects({**values, "engine": "argo"}), "Workflow")
    task = next(task for task in workflow["spec"]["templates"][0]["dag"]["tasks"] if task["name"] == "prepare")
    template = next(template for template in workflow["spec"]["templates"] if template["name"] == "prepare")
    assert task["withSequence"] == {"count": "3"}
    assert environment(template["container"])["HANFORGE_INDEX"] == "{{inputs.parameters.index}}"


GANG = {"recipeName": "demo", "profiles": {"cpu-core": {"nodes": 2}}, "networkPolicy": {"enabled": True}}


def test_several_nodes_train_together_and_find_each_other_by_name() -> None:
    items = objects({**GANG, "gang": "job"})
    for item in items:
        check_kubernetes(item)
    spec = manifests(items)["phase1"]["spec"]
    check_kubernetes(manifests(items)["phase1"])
    assert (spec["completionMode"], spec["completions"], spec["backoffLimit"]) == ("Indexed", 2, 12)
    given = environment(spec["template"]["spec"]["containers"][0])
    assert given["HANFORGE_MASTER_ADDR"] == "$(HANFORGE_JOB)-0.rel-gang" and given["HANFORGE_OF"] == "2"
    assert list(given).index("HANFORGE_JOB") < list(given).index("HANFORGE_MASTER_ADDR")
    service = one(items, "Service")
    labels = spec["template"]["metadata"]["labels"]
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"] == "rel-gang"
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"].items() <= labels.items()
    assert one(items, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_several_nodes_as_a_jobset_of_the_same_pods() -> None:
    items = objects({**GANG, "gang": "jobset", "kueue": {"queue": "gpus"}})
    found = manifests(items)
    jobset, job = found["phase1"], manifests(objects({**GANG, "gang": "job"}))["phase1"]
    check_kubernetes(jobset)
    assert jobset["kind"] == "JobSet" and found["prepare"]["kind"] == "Job"
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus" and jobset["spec"]["suspend"] is True
    (replicated,) = jobset["spec"]["replicatedJobs"]
    inner = replicated["template"]["spec"]
    assert (inner["completionMode"], inner["completions"], inner["backoffLimit"]) == ("Indexed", 2, 0)
    assert "suspend" not in inner and "ttlSecondsAfterFinished" not in inner
    assert replicated["template"]["metadata"]["labels"] == job["metadata"]["labels"]
    codes, lost = inner["podFailurePolicy"]["rules"]
    assert (codes["action"], codes["onExitCodes"]["values"]) == ("FailJob", [2, 3]) and lost["action"] == "FailJob"
    mend, _, restarted = jobset["spec"]["failurePolicy"]["rules"]
    message = "Container stage for pod apart/x failed with exit code 2 matching FailJob rule at index 0"
    assert mend["action"] == "FailJobSet" and re.search(mend["onJobFailureMessagePatterns"][0], message)
    message = "Pod apart/x has condition DisruptionTarget matching FailJob rule at index 1"
    assert not re.search(mend["onJobFailureMessagePatterns"][0], message)
    assert restarted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    ours, theirs = inner["template"]["spec"], job["spec"]["template"]["spec"]
    assert theirs.pop("subdomain") == "rel-gang" and not any(item["kind"] == "Service" for item in items)
    (stage,), (same,) = ours.pop("containers"), theirs.pop("containers")
    assert ours == theirs
    assert environment(stage)["HANFORGE_MASTER_ADDR"] == "$(HANFORGE_JOB)-0.$(HANFORGE_JOBSET)"
    network = ("HANFORGE_JOBSET", "HANFORGE_MASTER_ADDR")
    kept = [[entry for entry in each.pop("env") if entry["name"] not in network] for each in (stage, same)]
    assert kept[0] == kept[1] and stage == same


def test_auto_takes_a_job_where_nobody_says_that_there_is_a_jobset() -> None:
    assert manifests(objects(GANG)) == manifests(objects({**GANG, "gang": "job"}))


@pytest.mark.parametrize("gang", ["job", "jobset"])
def test_under_argo_a_driver_is_the_step_that_several_nodes_need(gang: str) -> None:
    items = objects({**GANG, "gang": gang, "engine": "argo", "kueue": {"queue": "gpus"}})
    workflow = one(items, "Workflow")
    check_argo(workflow)
    step = next(template for template in workflow["spec"]["templates"] if template["name"] == "phase1")
    assert step["container"]["args"] == ["driver", "--only", "phase1"] and step["serviceAccountName"] == "rel-driver"
    assert step["retryStrategy"]["expression"] == "lastRetry.exitCode != '2' && lastRetry.exitCode != '3'"
    task = next(task for task in workflow["spec"]["templates"][0]["dag"]["tasks"] if task["name"] == "phase1")
    assert "withSequence" not in task
    pod = template_of(manifests(items)["phase1"])
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "kueue.x-k8s.io/queue-name" not in pod["metadata"]["labels"]


def test_kueue_sees_a_job_only_when_it_is_ready() -> None:
    items = objects({"recipeName": "demo", "kueue": {"queue": "gpus"}})
    driver = one(items, "Job", "-driver-")
    assert "suspend" not in driver["spec"] and "kueue.x-k8s.io/queue-name" not in driver["metadata"]["labels"]
    for name, job in manifests(items).items():
        if name != "chain":
            assert job["spec"]["suspend"] is True and job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_exit_codes_and_lost_nodes() -> None:
    items = objects({"recipeName": "demo", "gracePeriodSeconds": 300})
    for job in (manifests(items)["phase1"], one(items, "Job", "-driver-")):
        codes, lost = job["spec"]["podFailurePolicy"]["rules"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        wanted = {"containerName": container["name"], "operator": "In", "values": [2, 3]}
        assert codes == {"action": "FailJob", "onExitCodes": wanted}
        assert lost == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    stage = manifests(items)["phase1"]["spec"]["template"]["spec"]
    assert stage["terminationGracePeriodSeconds"] == 300
    assert environment(stage["containers"][0])["HANFORGE_GRACE_SECONDS"] == "290"


def test_the_driver_is_told_where_things_lie_and_what_values_override() -> None:
    values = {
        "recipeName": "demo",
        "salt": 3,
        "inputs": {"raw": "s3://elsewhere/raw"},
        "stages": {"phase1": {"profile": "h100"}},
        "profiles": {"h100": {"host_memory_gib": 64}},
    }
    items = objects(values)
    spec = one(items, "Job", "-driver-")["spec"]["template"]["spec"]
    given = environment(spec["containers"][0])
    assert spec["containers"][0]["args"] == ["driver", "--input", "raw=s3://elsewhere/raw"]
    assert given["HANFORGE_PROFILE"] == "phase1=h100" and given["HANFORGE_RUN"].endswith("-3")
    assert given["HANFORGE_PROFILES"] == "/etc/hanforge/profiles.yaml"
    recipe = one(items, "ConfigMap", "-recipe-")
    assert recipe["data"]["profiles.yaml"] == '{"h100":{"host_memory_gib":64}}'
    (volume,) = (volume for volume in spec["volumes"] if "projected" in volume)
    assert [source["configMap"]["name"] for source in volume["projected"]["sources"]] == [
        recipe["metadata"]["name"],
        "rel-manifests",
    ]


def test_what_changes_a_job_changes_the_driver_too() -> None:
    names = {
        one(objects({"recipeName": "demo", **values}), "Job", "-driver-")["metadata"]["name"]
        for values in ({}, {"images": {"train": "other:1"}}, {"salt": 1}, {"stages": {"phase1": {"cpu": 3}}})
    }
    assert len(names) == 4


def test_roles_are_no_wider_than_needed() -> None:
    def rules(values: dict[str, Any]) -> dict[str, set[tuple[str, str]]]:
        return {
            role["metadata"]["name"]: {
                (f"{resource}/{name}" if name else resource, verb)
                for rule in role["rules"]
                for resource in rule["resources"]
                for name in rule.get("resourceNames", [""])
                for verb in rule["verbs"]
            }
            for role in objects({"recipeName": "demo", **values})
            if role["kind"] == "Role"
        }

    watch = {("pods", "list"), ("pods", "watch"), ("events", "list"), ("events", "watch")}
    jobs = {("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")}
    assert rules({}) == {"rel-driver": {*watch, *jobs, ("configmaps/rel-manifests", "get")}}
    sets = {("jobsets", verb) for verb in ("create", "delete", "get", "list", "watch")}
    gang = rules({**GANG, "gang": "jobset"})
    assert gang == {"rel-driver": {*watch, *jobs, *sets, ("configmaps/rel-manifests", "get")}}
    report = {("workflowtaskresults", "create"), ("workflowtaskresults", "patch")}
    flows = {("workflows", "list"), ("workflows", "watch")}
    assert rules({"engine": "argo"}) == {"rel-driver": {*watch, *flows, *report}, "rel-stage": report}
    gang = rules({**GANG, "gang": "jobset", "engine": "argo"})["rel-driver"]
    assert gang == {*watch, *jobs, *sets, ("configmaps/rel-manifests", "get"), *flows, *report}
    patch = {("deployments/demo-serve", "get"), ("deployments/demo-serve", "patch"), ("pods", "list")}
    assert rules({"serve": {"deployment": "demo-serve"}})["rel-serve"] == patch


def test_only_who_talks_to_the_cluster_has_a_token() -> None:
    items = objects({"recipeName": "demo", "serve": {"deployment": "demo-serve"}})
    tokens = {
        name: job["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for name, job in manifests(items).items()
        if name != "chain"
    }
    assert {name for name, token in tokens.items() if token} == {"serve"}
    given = environment(manifests(items)["serve"]["spec"]["template"]["spec"]["containers"][0])
    assert given["HANFORGE_SERVE_DEPLOYMENT"] == "demo-serve"
    assert given["HANFORGE_SERVE_ENDPOINT"] == "http://demo-serve:8000/v1"


def test_secrets_stand_in_no_rendering_but_by_name() -> None:
    env = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    items = objects({"recipeName": "demo", "secrets": ["teacher-key"], "env": env})
    assert not any(item["kind"] == "Secret" for item in items)
    found = manifests(items)["augment"]["spec"]["template"]["spec"]
    for container in (*found["initContainers"], *found["containers"]):
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == [STORE["secret"], "teacher-key"]
        assert env[0] in container["env"]


def test_notes_name_the_next_commands() -> None:
    for engine in ("jobs", "argo"):
        notes = texts({"recipeName": "demo", "engine": engine})["NOTES.txt"]
        for words in ("hanforge status", "hanforge why", "hanforge logs", "kubectl logs --namespace apart", "16 of 16"):
            assert words in notes
