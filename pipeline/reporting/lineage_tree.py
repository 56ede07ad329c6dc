"""A lineage as a tree on a terminal, the model at its root and raw files at its leaves."""

from typing import Any

from rich.markup import escape
from rich.tree import Tree

from pipeline.reporting.figures import brief
from pipeline.reporting.samples import printable, sample_panel
from pipeline.version import short_commit

MOST_FILES = 12


def lineage_tree(document: dict[str, Any]) -> Tree:
    """The tree of what `lineage_of` gives."""
    size = sum(file["bytes"] for file in document["files"])
    tree = Tree(f"[bold]{escape(document['model'])}[/]  {len(document['files'])} files, {size / 2**20:,.1f} MiB")
    if document["run"] is None:
        for file in document["files"]:
            tree.add(f"{escape(file['name'])}  [dim]{file['bytes']:,} bytes  {file['digest']}[/]")
        tree.add("[dim]no run of this store made it[/]")
        return tree
    tree.add(f"run {escape(document['run'])}, recipe {escape(document['recipe'])}")
    stages = {stage["name"]: stage for stage in document["stages"]}
    _add_stage(tree, stages, document, document["stage"], "", set())
    for example in document["examples"]:
        trained, origin = escape(example["trained_by"]), escape(str(example["row"].get("origin")))
        branch = tree.add(f"[bold]a row that {trained} was trained on[/] [dim](from {escape(example['from'])})[/]")
        branch.add(sample_panel(example["row"], 1, 1))
        raw = example["raw"]
        branch.add(f"raw line {origin}" if raw is not None else f"[yellow]no input of the run holds {origin}[/]")
        if raw is not None:
            branch.add(escape(printable(raw[:2000])))
    return tree


def _add_stage(
    tree: Tree, stages: dict[str, Any], document: dict[str, Any], name: str, reads: str, seen: set[str]
) -> None:
    stage = stages[name]
    title = f"{reads}[bold cyan]{escape(name)}[/] [dim]{stage['kind']} {stage['fingerprint'][:12]}[/]"
    if name in seen:
        tree.add(f"{title} [dim](above)[/]")
        return
    seen.add(name)
    branch = tree.add(title)
    for line in _facts(stage):
        branch.add(line)
    for read in stage["reads"]:
        label = f"[dim]{escape(read['setting'])}:[/] "
        if "stage" in read:
            if "rows" in read:
                _add_rows(branch.add(f"{label}{read['rows']:,} rows of {escape(read['stage'])}"), read["sources"])
            _add_stage(branch, stages, document, read["stage"], label, seen)
        elif "hub_model" in read:
            branch.add(f"{label}{escape(read['hub_model'])} [dim]at commit {escape(str(read.get('revision', '')))}[/]")
        else:
            _add_input(branch, label, document, read)


def _facts(stage: dict[str, Any]) -> list[str]:
    settings = "; ".join(f"{key} {brief(value)}" for key, value in stage["settings"].items())
    out = [f"[dim]{escape(settings)}[/]"] if settings else []
    if stage["rows"]:
        rows = stage["rows"]
        left_out = ", ".join(f"{reason} {count:,}" for reason, count in {**rows["rejected"], **rows["failed"]}.items())
        why = f" [dim]({escape(left_out)})[/]" if left_out else ""
        out.append(f"{rows['ok']:,} of {rows['planned']:,} rows{why}")
    if "teacher" in stage:
        out.append(f"teacher {escape(stage['teacher']['name'])} [dim]{escape(str(stage['teacher']['identity']))}[/]")
    if "execution" in stage:
        run = stage["execution"]
        out.append(f"[dim]on {run['world_size']} {run['device']}, {run['precision']}, attention {run['attention']}[/]")
    code = ", ".join(" at ".join(filter(None, (one["version"], short_commit(one["commit"])))) for one in stage["code"])
    return [*out, f"[dim]code: hanforge {escape(code)}[/]"] if code else out


def _add_rows(branch: Tree, sources: dict[str, dict[str, int]]) -> None:
    pairs = [(count, source, file) for source, files in sources.items() for file, count in files.items()]
    for count, source, file in sorted(pairs, reverse=True)[:MOST_FILES]:
        branch.add(f"{count:>9,}  {escape(source)} [dim]from {escape(file)}[/]")
    if len(pairs) > MOST_FILES:
        rest = sum(count for count, _, _ in sorted(pairs, reverse=True)[MOST_FILES:])
        branch.add(f"{rest:>9,}  [dim]from {len(pairs) - MOST_FILES} other files (--json lists them)[/]")


def _add_input(branch: Tree, label: str, document: dict[str, Any], read: dict[str, Any]) -> None:
    source = next((one for one in document["inputs"] if one["name"].removeprefix("input:") == read["input"]), None)
    where = f" [dim]{escape(source['url'])}[/]" if source else ""
    inner = branch.add(f"{label}input {escape(read['input'])}{where} [dim]{escape(read['identity'][:24])}[/]")
    for file in (source["files"] if source else [])[:MOST_FILES]:
        inner.add(f"{escape(file['name'])} [dim]{file['bytes']:,} bytes  {escape(file['tag'][:23])}[/]")
    hidden = len(source["files"]) - MOST_FILES if source else 0
    if hidden > 0:
        inner.add(f"[dim]and {hidden} more files (--json lists them)[/]")
