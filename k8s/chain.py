"""What the chart hands the driver: the stages in scope, what each needs, and each one's Job but for name and owner."""

import json
from dataclasses import dataclass
from pathlib import Path

from k8s.client import Object
from k8s.observer import RELEASE
from pipeline.errors import UserError
from pipeline.recipe.fingerprint import short_hash

HASH_LENGTH = 10


@dataclass(frozen=True)
class Chain:
    """`needs` by stage in the recipe's order, `manifests` by stage, `owner` the ConfigMap that Jobs are owned by."""

    run: str
    needs: dict[str, tuple[str, ...]]
    manifests: dict[str, Object]
    owner: str

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
