"""JobSet's own schema, from its CRD: `python -m tests.charts.jobset_schema jobset.x-k8s.io_jobsets.yaml`.

The CRD lies in the Go module sigs.k8s.io/jobset (0.12.0) under config/components/crd/bases. Nearly all of it are copies
of Kubernetes' Job and claim, which Kubernetes' own schemas check: they are cut out here. Objects are closed, since a
server drops fields that it does not know.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

VERSION = "v1alpha2"
FILE = Path(__file__).parent / "jobset.schema.json"
COPIES = ("template", "templates")
DROPPED = ("description", "default", "format")


def trimmed(node: Any) -> Any:
    """The schema without descriptions, copies of Kubernetes' objects and extensions; every object closed."""
    if isinstance(node, list):
        return [trimmed(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {
        key: trimmed(value)
        for key, value in node.items()
        if key not in DROPPED and not key.startswith("x-kubernetes-")
    }
    if "properties" in node:
        out["properties"] = {
            name: {"type": inner["type"]} if name in COPIES or name == "metadata" else trimmed(inner)
            for name, inner in node["properties"].items()
            if name != "status"
        }
        out["additionalProperties"] = False
    return out


def main() -> None:
    """Write the schema anew."""
    definition = yaml.safe_load(Path(sys.argv[1]).read_text("utf-8"))
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == VERSION]
    FILE.write_text(json.dumps(trimmed(version["schema"]["openAPIV3Schema"]), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
