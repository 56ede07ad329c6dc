"""What the chart hands the driver: the stages in scope, what each needs, and each one's Job but for name and owner.

Pods that train together on several nodes may be a JobSet of one Job instead: what differs between the two is here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from k8s.client import JOBS, JOBSETS, Object, Resource
from k8s.observer import RELEASE, RUN, STAGE
from pipeline.errors import UserError
from pipeline.recipe.fingerprint import short_hash

HASH_LENGTH = 10
JOB_NAME, JOBSET_NAME = "batch.kubernetes.io/job-name", "jobset.sigs.k8s.io/jobset-name"
ENDED = {"Complete": "Complete", "Completed": "Complete", "Failed": "Failed"}  # conditions of both, in a Job's words


def resource_of(job: Object) -> Resource:
    """Where a Job or a JobSet lies."""
    return JOBSETS if job["kind"] == "JobSet" else JOBS


def pods_of(job: Object) -> str:
    """The selector of its pods."""
    return f"{JOBSET_NAME if job['kind'] == 'JobSet' else JOB_NAME}={job['metadata']['name']}"


def template_of(job: Object) -> Object:
    """The template of its pods: {"metadata", "spec"}."""
    inner: Object = job["spec"]["replicatedJobs"][0]["template"] if job["kind"] == "JobSet" else job
    template: Object = inner["spec"]["template"]
    return template


def is_over(item: Object) -> bool:
    """Whether a Job, a JobSet, a Workflow or a pod has ended, well or not."""
    status = item.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed", "Error"):
        return True
    kinds = (*ENDED, "FailureTarget")
    return any(each["type"] in kinds and each["status"] == "True" for each in status.get("conditions") or ())


def ended(job: Object, how: str) -> Object | None:
    """The condition by which it ended ("Complete", "Failed"); None when it did not, or otherwise."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["status"] == "True" and ENDED.get(condition["type"]) == how:
            found: Object = condition
            return found
    return None


@dataclass(frozen=True)
class Chain:
    """`needs` by stage in the recipe's order, `manifests` by stage, `owner` the ConfigMap that Jobs are owned by."""

    run: str
    needs: dict[str, tuple[str, ...]]
    manifests: dict[str, Object]
    owner: str
    one: str = ""  # the only stage, where a Workflow runs the others

    @property
    def selector(self) -> str:
        """The labels of its pods and Jobs."""
        return f"{RELEASE}={self.release},{RUN}" + (f",{STAGE}={self.one}" if self.one else "")

    def alone(self, stage: str) -> "Chain":
        """One stage of it. UserError when it has no such stage."""
        if stage not in self.needs:
            raise UserError(f"the chain has no stage {stage!r}; valid: {', '.join(self.needs)}")
        return Chain(self.run, {stage: self.needs[stage]}, {stage: self.manifests[stage]}, self.owner, stage)

    @property
    def release(self) -> str:
        """The Helm release, as every manifest's label says."""
        return str(next(iter(self.manifests.values()))["metadata"]["labels"][RELEASE])

    def job_name(self, stage: str) -> str:
        """`<release>-<stage>-<hash of the manifest>`: another spec, or another run, is another Job."""
        digest = short_hash({"run": self.run, "manifest": self.manifests[stage]}, HASH_LENGTH)
        return f"{self.release}-{stage.replace('_', '-')}-{digest}"  # names hold no underscores

    def job(self, stage: str, owner: Object) -> Object:
        """The Job to create: the manifest with its name, owned by the release's ConfigMap."""
        manifest = self.manifests[stage]
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        metadata = {**manifest["metadata"], "name": self.job_name(stage), "ownerReferences": [reference]}
        return {**manifest, "metadata": metadata}


def read_chain(folder: Path) -> Chain:
    """The chain that the chart mounted at `folder`: chain.json, a manifest per stage. UserError when one is missing."""
    try:
        told = json.loads((folder / "chain.json").read_text("utf-8"))
        needs = {stage["name"]: tuple(stage["needs"]) for stage in told["stages"]}
        manifests = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in needs}
        return Chain(told["run"], needs, manifests, told["owner"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: no chain of the hanforge chart is there: {type(error).__name__}: {error}",
            "The driver runs in the cluster, started by the chart: hanforge deploy",
        ) from error
