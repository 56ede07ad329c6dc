"""Which cluster: the kubeconfig's, or the one that this pod runs in. What is wrong with either is said here."""

import os
from contextlib import suppress
from pathlib import Path

from k8s.client import Cluster
from pipeline.errors import HanforgeError, Trouble, UserError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def connect(namespace: str | None = None, context: str | None = None) -> Cluster:
    """The cluster that the kubeconfig means ($KUBECONFIG, ~/.kube/config), or the one this pod runs in.

    `namespace` defaults to the context's, or the pod's own. Raises UserError; asks the server nothing yet.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    settings.retries = False  # retries are ours, in one place
    inside = not os.environ.get("KUBECONFIG") and "KUBERNETES_SERVICE_HOST" in os.environ and NAMESPACE_FILE.exists()
    try:
        if inside and context is None:
            config.load_incluster_config(client_configuration=settings)
            own = NAMESPACE_FILE.read_text("utf-8").strip()
        else:
            if not any(Path(path).exists() for path in kubeconfig().split(os.pathsep)):
                raise FileNotFoundError("it does not exist")
            _check_context(context)
            config.load_kube_config(kubeconfig(), context=context, client_configuration=settings)
            own = _context_namespace(context)
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"no cluster: the kubeconfig {kubeconfig()!r} cannot be used: {error}",
            "Set KUBECONFIG to a kubeconfig of your cluster, or name one of its contexts with --context",
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("yaml", "ruamel"):
            raise
        raise UserError(
            f"the kubeconfig {kubeconfig()!r} is not valid YAML: {' '.join(str(error).split())}", "Correct KUBECONFIG"
        ) from error
    return Cluster(client.ApiClient(settings), namespace or own)


def reachable(cluster: Cluster) -> str:
    """The server's version; UserError when it does not answer or refuses these credentials."""
    try:
        return cluster.version()
    except Trouble as error:
        raise UserError(
            f"the cluster at {cluster.host} (kubeconfig {kubeconfig()!r}) does not answer: {_root(error)}",
            "Start it, or correct the server's address in the kubeconfig, or name another context with --context",
        ) from error


def kubeconfig() -> str:
    """The kubeconfig's path; several with colons between, as kubectl reads $KUBECONFIG."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _root(error: HanforgeError) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    with suppress(AttributeError, IndexError):
        return str(cause.args[-1]).split("object at")[-1].split(": ", 1)[-1]
    return str(cause)


def _check_context(context: str | None) -> None:
    from kubernetes import config

    if context is None:
        return
    names = [str(item["name"]) for item in config.list_kube_config_contexts(kubeconfig())[0]]
    if context not in names:
        raise UserError(f"the kubeconfig {kubeconfig()!r} has no context {context!r}", f"It has: {', '.join(names)}")


def _context_namespace(context: str | None) -> str:
    from kubernetes import config

    contexts, active = config.list_kube_config_contexts(kubeconfig())
    chosen = next((item for item in contexts if item["name"] == context), active)
    return str(chosen.get("context", {}).get("namespace") or "default")
