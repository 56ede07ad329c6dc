"""Proof 7: vLLM in a pod answers through its Service, is deleted and rolled under load without a failed request.

Which model answers is seen by its weights: each of the two says its own sentence, whatever it is asked. Four starts of
vLLM, each on a CPU: the first, the deleted pod's successor, the newly promoted model, the one before it again.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k8s.client import PODS, SECRETS, SERVICES, Cluster
from pipeline.recipe.load import load_recipe
from pipeline.store.objects import Store
from pipeline.store.pins import resolve
from pipeline.store.runs import create_run
from tests.acceptance.world import asked_for_well, hanforge, until
from tests.engine.tiny import scripted_qwen3
from tests.store.world import finish_files

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
NODE, KEY = "h100-0", "sesame"
COUNTED = [f" {number}" for number in range(30)]
SAYS = {"one": ["첫째", *COUNTED], "two": ["둘째", *COUNTED]}
RECIPE = """\
name: spoken
inputs: {raw: {}, base: {}}
stages:
  prepare: {kind: prepare, source: {input: raw}}
  train: {kind: train, base: {input: base}, data: {stage: prepare}}
  merge: {kind: merge, base: {input: base}, adapter: {stage: train}}
"""


@pytest.fixture
def runs(bucket: Store, tmp_path: Path) -> list[str]:
    """Two runs of a recipe in the store, whose merged models say different things."""
    bucket.put("inputs/raw/a.jsonl", b'{"messages": []}\n')
    bucket.put("inputs/base/config.json", b"{}")
    recipe, found = tmp_path / "spoken.yaml", []
    recipe.write_text(RECIPE)
    for seed, (name, script) in enumerate(SAYS.items()):
        model = scripted_qwen3(tmp_path / name, script)
        lock = create_run(bucket, resolve(bucket, load_recipe(str(recipe), sets=[f"train.seed={seed}"])))
        finish_files(bucket, lock, "merge", "model", {file.name: file.read_bytes() for file in model.iterdir()}, model)
        found.append(lock.run_id)
    return found


@pytest.fixture
def serve(
    here: Cluster, values: dict[str, Any], images: Callable[..., None], tmp_path: Path
) -> Iterator[Callable[[], str]]:
    """`serve()` deploys what is promoted and returns when it serves; gives what the command said."""
    images(NODE, "serve")
    here.create(SECRETS, {"metadata": {"name": "key"}, "stringData": {"api-key": KEY}})
    given = {
        "store": values["store"],
        "image": values["images"]["serve"],
        "tolerations": values["tolerations"],
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "resources": {"cpu": "100m", "memory": "6Gi"},
        "apiKey": {"secret": "key"},
        "engine": {"max_model_len": 256, "max_num_seqs": 8, "dtype": "float32"},
        "env": [{"name": "VLLM_ENABLE_V1_MULTIPROCESSING", "value": "0"}],  # a process less to start
        "drainSeconds": 3,
    }
    written = tmp_path / "serve.yaml"
    written.write_text(json.dumps(given))
    yield lambda: asked_for_well("deploy", "serve", "spoken", "-n", here.namespace, "-f", str(written))
    here.delete(SERVICES, "spoken-serve")  # a namespace loses its pods first: this one would wait for a successor


class Door:
    """The Service from outside its pods: one address, and a connection that is kept as long as the server keeps it."""

    def __init__(self, host: str, port: int) -> None:
        self._kept = http.client.HTTPConnection(host, port, timeout=120)

    def ask(self, key: str = KEY, **body: Any) -> tuple[int, str, str]:
        """(status, answer, the model that the server names); nothing is tried twice."""
        words = {"model": "hanforge", "messages": [{"role": "user", "content": "?"}], "temperature": 0, **body}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._kept.request("POST", "/v1/chat/completions", json.dumps(words), headers)
        response = self._kept.getresponse()
        read, named = response.read(), response.headers.get("x-hanforge-model", "")
        if response.status != 200:
            return response.status, read.decode(), named
        if not body.get("stream"):
            return 200, json.loads(read)["choices"][0]["message"]["content"], named
        lines = [line.removeprefix(b"data: ") for line in read.split(b"\n") if line.startswith(b"data: ")]
        assert lines[-1] == b"[DONE]", read
        return 200, "".join(json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]), named


class Stream:
    """Requests without a pause from several sides: short ones, long ones, streamed ones, on connections that are kept.

    `answers` holds (time, first word, the model's name) of each, `failed` what was no whole answer.
    """

    LOADS = ({"max_tokens": 4}, {"max_tokens": 31, "stream": True}, {"max_tokens": 200, "ignore_eos": True})

    def __init__(self, host: str, port: int) -> None:
        self.answers: list[tuple[float, str, str]] = []
        self.failed: list[str] = []
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(Door(host, port), load), daemon=True) for load in self.LOADS
        ]

    def _go_on(self, door: Door, load: dict[str, Any]) -> None:
        while not self._ended.wait(0.4):
            try:
                status, answer, named = door.ask(**load)
                whole = [word for word, *_ in SAYS.values() if answer.startswith("".join([word, *COUNTED[:3]]))]
                if status != 200 or not whole or (load["max_tokens"] > 30 and COUNTED[-1] not in answer):
                    self.failed.append(f"{load}: {status} {answer!r}")
                else:
                    self.answers.append((time.monotonic(), whole[0], named))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failed.append(f"{load}: {error!r}")

    @contextmanager
    def running(self) -> Iterator["Stream"]:
        """The stream, for the length of a `with` block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(60)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a part took."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s")


def ready_pods(here: Cluster) -> list[str]:
    """The pods that serve and stay."""
    found = here.list(PODS, "app.kubernetes.io/instance=spoken-serve")["items"]
    return [
        pod["metadata"]["name"]
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
        and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or ())
    ]


def all_pods(here: Cluster) -> set[str]:
    return {pod["metadata"]["name"] for pod in here.list(PODS, "app.kubernetes.io/instance=spoken-serve")["items"]}


def test_vllm_answers_is_deleted_and_rolled_without_a_failed_request(
    here: Cluster, serve: Callable[[], str], runs: list[str]
) -> None:
    asked_for_well("promote", f"{runs[0]}:merge")
    with timed("first start"):
        assert "serves promotion 1 of spoken" in serve()
    spec = (here.get(SERVICES, "spoken-serve") or {})["spec"]
    address = (spec["clusterIP"], int(spec["ports"][0]["port"]))
    door = Door(*address)
    assert door.ask(max_tokens=2) == (200, "첫째 0", "promotion 1 of spoken")
    assert door.ask(key="another")[0] == 401
    with Stream(*address).running() as stream:
        with timed("pod deleted, its successor alone"):
            (first,) = ready_pods(here)
            here.delete(PODS, first)
            until(lambda: ready_pods(here), 300)
            until(lambda: first not in all_pods(here), 120)
        assert not stream.failed, stream.failed
        asked_for_well("promote", f"{runs[1]}:merge")
        with timed("rolled to the next promotion"):
            serve()
        until(lambda: Door(*address).ask(max_tokens=2) == (200, "둘째 0", "promotion 2 of spoken"), 20)
        until(lambda: len(all_pods(here)) == 1, 60)
        asked_for_well("promote", "--rollback")
        with timed("rolled back"):
            serve()
        until(lambda: len(all_pods(here)) == 1, 60)
        assert Door(*address).ask(max_tokens=2) == (200, "첫째 0", "promotion 3 of spoken")
    print(f"{len(stream.answers)} requests answered, {len(stream.failed)} failed")
    assert not stream.failed, stream.failed
    heard = [word for _, word, _ in stream.answers]
    assert {"첫째", "둘째"} == set(heard) and heard[0] == heard[-1] == "첫째"
    why = hanforge("why", "--release", "spoken-serve", "-n", here.namespace).output
    assert "spoken-serve: 1 of 1 pods serve promotion 3" in why
