"""Talks to the Hub: what a revision is, which files it has, their bytes. Knows nothing of the store.

The token comes from HF_TOKEN in the environment or `.env`, is never stored or logged, and is sent to the Hub alone (a
redirect to another host drops it). HF_ENDPOINT points elsewhere.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pipeline.errors import HanforgeError, UserError
from pipeline.recipe.known_models import near_model_ids
from pipeline.store.retry import retried

RepositoryKind = Literal["model", "dataset"]
CONNECTION_TRIES = 3  # without a network somebody waits seconds, not the store's whole patience
PATHS: dict[RepositoryKind, str] = {"model": "", "dataset": "datasets/"}


class WriteFailed(HanforgeError):
    """The file did not arrive as it should: it has to be written again from its start."""


@dataclass(frozen=True)
class HubFile:
    """One file of a revision: exactly one of `sha256` (large files) and `git_sha1` (small ones) is its checksum."""

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None


class CheckedStream:
    """What a downloader writes to: counts and hashes every byte of `file` on its way into the store.

    git's id of a file is the sha1 of "blob SIZE\\0" and its content.
    """

    def __init__(self, target: IO[bytes], file: HubFile) -> None:
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self._git_sha1 = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)
        self._target = target
        self._file = file

    def write(self, data: bytes) -> int:
        """Pass one chunk on. Raises WriteFailed when the store does not take it."""
        try:
            self._target.write(data)
        except Exception as error:
            raise WriteFailed(f"the store refused a block after {self.bytes} bytes: {error}") from error
        self.bytes += len(data)
        self.sha256.update(data)
        self._git_sha1.update(data)
        return len(data)

    def check(self) -> None:
        """Raise WriteFailed when what came is not what the Hub promised."""
        file = self._file
        for what, came, promised in (
            ("bytes", self.bytes, file.bytes),
            ("sha256", self.sha256.hexdigest(), file.sha256),
            ("git blob", self._git_sha1.hexdigest(), file.git_sha1),
        ):
            if promised is not None and came != promised:
                raise WriteFailed(f"{what} {came} instead of {promised}")


@dataclass(frozen=True)
class HubRevision:
    """A repository at one commit: its files in name order, the licence that its card names."""

    kind: RepositoryKind
    id: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None


def hub_endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_token() -> str | None:
    """HF_TOKEN from the environment, else from `.env` in the working folder; None when there is neither."""
    from dotenv import dotenv_values

    token = os.environ.get("HF_TOKEN") or (dotenv_values(".env").get("HF_TOKEN") if Path(".env").is_file() else None)
    return token.strip() if token and token.strip() else None


def look_up(repository: str, kind: RepositoryKind, revision: str) -> HubRevision:
    """Resolve a branch, tag or commit to its commit and list the files there.

    Raises UserError when there is no such repository or revision, when it is closed to us or when no Hub answers.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub_endpoint(), token=hub_token(), library_name="hanforge")
    unanswered = 0

    def ask() -> HubRevision:
        nonlocal unanswered
        try:
            info: Any = api.repo_info(repository, repo_type=kind, revision=revision)
            tree = api.list_repo_tree(repository, repo_type=kind, revision=info.sha, recursive=True)
            files = sorted((_file(entry) for entry in tree if hasattr(entry, "blob_id")), key=lambda file: file.name)
        except Exception as error:
            meaning = explained(error, repository, kind, revision)
            unanswered += isinstance(meaning, ConnectionError)
            if unanswered == CONNECTION_TRIES:
                meaning = UserError(
                    f"no Hub answers at {hub_endpoint()}: {meaning}",
                    "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE; what is mirrored in the store needs no Hub",
                )
            raise meaning from error
        card: Any = getattr(info, "card_data", None)
        return HubRevision(kind, repository, str(info.sha), tuple(files), card.get("license") if card else None)

    return retried(f"cannot ask the Hub about {repository}", ask)


def download(found: HubRevision, file: HubFile, stream: CheckedStream) -> None:
    """Stream one file into `stream`, going on where a cut connection left it. Does not compare checksums.

    Raises UserError when access is refused, Trouble when the Hub fails for longer than the retries.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    url = hf_hub_url(found.id, file.name, repo_type=found.kind, revision=found.commit, endpoint=hub_endpoint())
    headers = {**build_hf_headers(token=hub_token(), library_name="hanforge"), "Accept-Encoding": "identity"}
    sink: Any = stream

    def go_on() -> None:
        try:
            http_get(url, sink, resume_size=stream.bytes, headers=headers, expected_size=file.bytes)
        except Exception as error:
            raise explained(error, found.id, found.kind, found.commit) from error

    if file.bytes:
        retried(f"cannot download {found.id}/{file.name}", go_on)


def explained(error: Exception, repository: str, kind: RepositoryKind, revision: str) -> Exception:
    """What a failed request means: a UserError for what only the user can mend, else the passing error itself."""
    from huggingface_hub import errors

    page = f"{hub_endpoint()}/{PATHS[kind]}{repository}"
    if isinstance(error, errors.GatedRepoError):
        remedy = "the account of HF_TOKEN has no access yet: ask for it there" if hub_token() else "then set HF_TOKEN"
        return UserError(f"the {kind} {repository} is gated", f"Accept its terms at {page}; {remedy}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repository} has no revision {revision!r}", f"See {page}/tree/main for its branches")
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(repository, kind, page)
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{repository!r} is not a Hub id: {error}", "An id is ORGANISATION/NAME")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE forbids asking the Hub", "Unset it, or use what is mirrored already")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"the Hub refused HF_TOKEN for {repository} (HTTP {status})", "Check the token and its rights")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return UserError(f"the Hub answers HTTP {status} for {repository}@{revision}", f"Look at {page}")
    if type(error).__name__ in ("ConnectError", "ConnectTimeout"):
        return ConnectionError(str(error))
    return error


def _not_found(repository: str, kind: RepositoryKind, page: str) -> UserError:
    near = near_model_ids(repository) if kind == "model" else []
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    private = "If it is private, HF_TOKEN's account has no access" if hub_token() else "If it is private, set HF_TOKEN"
    return UserError(f"the Hub has no {kind} {repository!r} ({page})", f"{guess}{private}")


def _file(entry: Any) -> HubFile:
    lfs = entry.lfs
    return HubFile(entry.path, int(entry.size), lfs.sha256 if lfs else None, None if lfs else entry.blob_id)
