"""Stop a release and start it again. What runs a chain is its driver's Job, or its Workflow; both can be made anew.

Stopping suspends that and deletes the Jobs of open stages: their pods save what they have within their grace period,
and the store keeps it. Starting again deletes what failed and makes the driver's Job anew, which then goes on.
"""

import time

from k8s.chain import JOBSET_NAME, is_over, resource_of
from k8s.client import JOBS, JOBSETS, PODS, WORKFLOWS, Cluster, Object
from k8s.observer import RELEASE, STAGE
from pipeline.errors import Trouble, UserError
from pipeline.recipe.models import nearest

DRIVER_SECONDS = 90.0  # its grace period, and time for a node to tell
OF_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")
HELD = ("shutdown", "suspend")  # what `stop` and a values file wrote into a Workflow's spec
OF_JOB = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")


def stop(cluster: Cluster, release: str) -> list[str]:
    """Suspend the driver or end the Workflow, and delete the Jobs that are not over; gives their names."""
    drivers, _, workflows = parts(cluster, release)
    for driver in drivers:
        if not is_over(driver):
            cluster.patch(JOBS, driver["metadata"]["name"], {"spec": {"suspend": True}})
    for workflow in workflows:
        if not is_over(workflow):
            # Argo does not look at a suspended Workflow, not even to end it.
            cluster.patch(WORKFLOWS, workflow["metadata"]["name"], {"spec": {"shutdown": "Terminate", "suspend": None}})
    _wait_for_drivers(cluster, release)
    _, jobs, _ = parts(cluster, release)
    return _deleted(cluster, [job for job in jobs if not is_over(job)])


def retry(cluster: Cluster, release: str, stages: list[str]) -> list[str]:
    """Delete the Jobs that are over (of `stages`; of all when there is none), then start the driver or the Workflow.

    Gives the names of what was deleted. Done stages stay done; their Jobs are not made again.
    """
    drivers, jobs, workflows = parts(cluster, release)
    over = [job for job in jobs if is_over(job) and (not stages or job["metadata"]["labels"][STAGE] in stages)]
    doomed = _deleted(cluster, over)
    for driver in _newest(drivers):
        if is_over(driver):
            _again(cluster, driver)
        else:
            cluster.patch(JOBS, driver["metadata"]["name"], {"spec": {"suspend": False}})
    for workflow in _newest(workflows):
        if is_over(workflow):
            cluster.delete(WORKFLOWS, workflow["metadata"]["name"], workflow["metadata"]["uid"])
            _make(cluster, {**workflow, "spec": {k: v for k, v in workflow["spec"].items() if k not in HELD}})
        else:
            cluster.patch(WORKFLOWS, workflow["metadata"]["name"], {"spec": {"suspend": None}})
    return doomed


def _deleted(cluster: Cluster, jobs: list[Object]) -> list[str]:
    names = [job["metadata"]["name"] for job in jobs]
    for job in jobs:
        cluster.delete(resource_of(job), job["metadata"]["name"])
    return names


def _wait_for_drivers(cluster: Cluster, release: str) -> None:
    """Until no driver's pod is left, of a Job or of a Workflow, that would make a Job again which is deleted."""
    selector = f"{RELEASE}={release},app.kubernetes.io/component=driver"
    until = time.monotonic() + DRIVER_SECONDS
    while any(not is_over(pod) for pod in cluster.list(PODS, selector)["items"]):
        if time.monotonic() > until:
            raise Trouble(f"a driver of {release} did not end within {DRIVER_SECONDS:.0f} s", "Say it again")
        time.sleep(0.5)


def parts(cluster: Cluster, release: str) -> tuple[list[Object], list[Object], list[Object]]:
    """The release's driver Jobs, stage Jobs or JobSets, and Workflows; UserError when there is nothing of it."""
    found = cluster.list(JOBS, f"{RELEASE}={release},!{JOBSET_NAME}")["items"]
    found += cluster.list(JOBSETS, f"{RELEASE}={release}")["items"] if cluster.serves(JOBSETS) else []
    workflows = cluster.list(WORKFLOWS, f"{RELEASE}={release}")["items"] if cluster.serves(WORKFLOWS) else []
    if not found and not workflows:
        others = {job["metadata"].get("labels", {}).get(RELEASE, "") for job in cluster.list(JOBS)["items"]} - {""}
        hint = nearest(release, sorted(others)) if others else "it holds no release of hanforge"
        raise UserError(f"namespace {cluster.namespace!r} has no release {release!r}; {hint}", "See: helm list")
    stages = [job for job in found if STAGE in job["metadata"]["labels"]]
    return [job for job in found if job not in stages], stages, workflows


def _newest(items: list[Object]) -> list[Object]:
    """The last one made, where an upgrade left others."""
    return sorted(items, key=lambda item: str(item["metadata"]["creationTimestamp"]))[-1:]


def _again(cluster: Cluster, job: Object) -> None:
    """A Job that is over made anew under its name; a Job cannot be started twice."""
    spec = {key: value for key, value in job["spec"].items() if key != "selector"}
    template = {**spec["template"], "metadata": _own(spec["template"].get("metadata") or {})}
    cluster.delete(JOBS, job["metadata"]["name"], job["metadata"]["uid"])
    _make(cluster, {**job, "spec": {**spec, "template": template, "suspend": False}})


def _make(cluster: Cluster, item: Object) -> None:
    resource = JOBS if item["kind"] == "Job" else WORKFLOWS
    body = {key: item[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": _own(item["metadata"])}
    if cluster.create(resource, body) is None:
        raise UserError(f"{item['metadata']['name']} is still going away", "Say the same again in a moment")


def _own(metadata: Object) -> Object:
    """Metadata as it was given, without what the server wrote into it."""
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name not in OF_JOB}
    return {key: value for key, value in metadata.items() if key not in OF_SERVER} | {"labels": labels}
