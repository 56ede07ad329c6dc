"""`stop`, `retry`: a release in the cluster. Logic: k8s.control."""

from typing import Annotated

import typer

from jobs import options

Release = Annotated[str, typer.Argument(help="The Helm release: the recipe's name, or RECIPE-STAGE.")]


def stop(release: Release, namespace: options.Namespace = None, context: options.Context = None) -> None:
    """Stop a release: its pods save their progress, and `hanforge retry` goes on from there."""
    from k8s.control import stop

    cluster = options.cluster(namespace, context)
    names = stop(cluster, release)
    what = ", ".join(names) or f"{release}: no stage was running"
    options.say(f"stopped {what}")
    options.say(f"to go on: hanforge retry {release} --namespace {cluster.namespace}")


def retry(
    release: Release,
    start: Annotated[list[str], typer.Option("--from", help="Only this stage's failed Job; repeatable.")] = [],
    namespace: options.Namespace = None,
    context: options.Context = None,
) -> None:
    """Start a release again after it was stopped or failed; what is done stays done."""
    from k8s.control import retry

    cluster = options.cluster(namespace, context)
    names = retry(cluster, release, start)
    anew = f"; made anew when ready: {', '.join(names)}" if names else ""
    options.say(f"{release} goes on{anew}")
