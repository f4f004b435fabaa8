"""Models of the Hugging Face hub: which files a name means, and where they are once they have been downloaded.

`local/OWNER/NAME` is a good GGUF file of that repository, `local/OWNER/NAME:QUANT` the one of that quantization, and
`hf/OWNER/NAME` what transformers loads. Files lie in the cache that all programs of the hub share, and its variables hold:
HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

INSTALL_HINT = "pip install 'consensus-flows[local]'"
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?::(?P<quant>[A-Za-z][\w.-]*))?\Z", re.ASCII)
_QUANT = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))(?![A-Z0-9])"
)
_PART = re.compile(r"-(?P<number>\d{5})-of-(?P<all>\d{5})\.gguf\Z")
_NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
PREFERRED = (
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "IQ4_XS",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_0",
    "Q6_K",
    "Q8_0",
    "Q3_K_M",
    "BF16",
    "F16",
    "F32",
)
"""The quantizations by which is chosen where none is named: what loses little comes before what is large."""


class HubError(ValueError):
    """A model of the hub cannot be had; the message says what would be right."""


@dataclass(frozen=True)
class HubFile:
    """A GGUF file of the hub, or the files of a model of transformers, at one commit.

    Attributes:
        repo: Its repository.
        commit: The commit.
        names: Its name there; of several files the names of all, in order.
        size: Its bytes; None where that is not known.
        license: What the repository says; None where that is not known.
        token: The token to download it with; None for the one that the environment or the hub's login holds.
    """

    repo: str
    commit: str
    names: tuple[str, ...]
    size: int | None = None
    license: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """What decides the answer."""
        return f"{self.repo}@{self.commit}/{self.names[0]}"

    @property
    def path(self) -> Path:
        """Where it is, or will be; not resolved, because the parts find each other by their names."""
        return _folder(self.repo) / "snapshots" / self.commit / self.names[0]

    @property
    def is_here(self) -> bool:
        """Whether all of it has been downloaded."""
        return all((self.path.parent / Path(name).name).is_file() for name in self.names)

    def describe(self) -> str:
        """Say what is downloaded, and under which license."""
        size = f"{self.size / 1e9:.1f} GB, " if self.size else ""
        return f"downloading {self.repo}/{self.names[0]} ({size}license: {self.license or 'not stated'})"


_found: dict[tuple[str, str | None], HubFile] = {}


def split_name(model: str) -> tuple[str, str | None] | None:
    """Return repository and quantization that a local model's name means; None for another name, such as a file's."""
    found = _NAME.match(model)
    if found is None or model.endswith(".gguf") or Path(model).expanduser().is_file():
        return None
    return found["repo"], found["quant"] and found["quant"].upper()


def find(repo: str, quant: str | None, token: str | None = None) -> HubFile:
    """Find the file that a name means: in the cache, else on the hub.

    Args:
        repo: The repository.
        quant: The quantization; None for a good one.
        token: A token of the hub; None for the environment's.

    Raises:
        HubError: If there is none, or it cannot be seen.
    """
    if (repo, quant) not in _found:
        if find_spec("huggingface_hub") is None:
            raise HubError(
                f"local/{repo} is a model of the Hugging Face hub, which needs the extra local: {INSTALL_HINT}"
            )
        here = _cached(repo, quant)
        # In the cache may be another quantization than the one that would be chosen.
        if here is None or (quant is None and _quant_of(here.names[0]) != PREFERRED[0]):
            try:
                best = _on_hub(repo, partial(choose, quant=quant), token)
                here = best if here is None or here.names != best.names else here
            except _UnreachableError as error:
                if here is None:
                    raise HubError(
                        f"local/{repo}{f':{quant}' if quant else ''} is not in the cache, and {error}"
                    ) from None
        _found[repo, quant] = here
    return _found[repo, quant]


def find_model(repo: str, token: str | None = None) -> HubFile:
    """Find the files of a model that transformers loads: in the cache, else on the hub.

    Args:
        repo: The repository.
        token: A token of the hub; None for the environment's.

    Raises:
        HubError: If there is none, or it cannot be seen.
    """
    if (repo, "") not in _found:
        snapshot = _snapshot(repo)
        if snapshot and _is_whole(snapshot):
            _found[repo, ""] = HubFile(repo, snapshot.name, ("config.json",))
        else:
            try:
                _found[repo, ""] = _on_hub(repo, _files_of_model, token)
            except _UnreachableError as error:
                raise HubError(f"hf/{repo} is not in the cache, and {error}") from None
    return _found[repo, ""]


def _files_of_model(files: Iterable[str], repo: str) -> tuple[str, ...]:
    """Choose the files that transformers reads: the configuration first, and of the weights one form."""
    names = sorted(name for name in files if "/" not in name)
    safe = [name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated")]
    weights = safe or [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]
    if "config.json" not in names or not weights:
        raise HubError(f"{repo} has no model that transformers loads: it needs a config.json and weights")
    others = [name for name in names if name.endswith((".json", ".jinja", ".model", ".txt", ".tiktoken"))]
    return ("config.json", *(name for name in others if name != "config.json"), *weights)


def _is_whole(snapshot: Path) -> bool:
    """Tell whether a model's configuration and all of its weights are in the cache."""
    if not (snapshot / "config.json").is_file():
        return False
    index = snapshot / "model.safetensors.index.json"
    if index.is_file():
        return all((snapshot / name).is_file() for name in set(json.loads(index.read_text())["weight_map"].values()))
    return any(snapshot.glob("*.safetensors")) or any(snapshot.glob("pytorch_model*.bin"))


def fetch(file: HubFile) -> Path:
    """Download what of a file is not in the cache, with a progress bar, and return where it is.

    Raises:
        HubError: If it cannot be downloaded.
    """
    if not file.is_here:
        from huggingface_hub import hf_hub_download

        for name in file.names:
            try:
                # Of its branch and not of the commit, so that the cache knows which commit the branch has.
                hf_hub_download(file.repo, name, token=file.token, endpoint=_endpoint())
            except Exception as error:
                raise HubError(f"{file.repo}/{name} cannot be downloaded: {_short(error)}") from None
        if not file.is_here:
            _found.clear()
            raise HubError(f"{file.repo} was changed while it was downloaded: run this again")
    return file.path


def in_cache() -> list[tuple[str, int]]:
    """List the models in the cache, as a local model is named, with their bytes."""
    if find_spec("huggingface_hub") is None:
        return []
    found: dict[str, int] = {}
    for repo in _repos_in_cache():
        snapshot = _snapshot(repo)
        names = _names_in(snapshot) if snapshot else []
        for quant in sorted({_quant_of(name) or "" for name in names}):
            file = _cached(repo, quant or None)
            if file is not None and snapshot is not None:
                found[f"{repo}:{quant}" if quant else repo] = sum(
                    (snapshot / name).stat().st_size for name in file.names
                )
    return list(found.items())


def models_in_cache() -> list[str]:
    """List the models in the cache that transformers can load."""
    return [repo for repo in _repos_in_cache() if (snapshot := _snapshot(repo)) and _is_whole(snapshot)]


def _repos_in_cache() -> list[str]:
    folders = sorted(_cache().glob("models--*--*"))
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


class _UnreachableError(Exception):
    """The hub does not answer."""


def _on_hub(repo: str, wanted: Callable[[Iterable[str], str], tuple[str, ...]], token: str | None) -> HubFile:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    how = "set HF_TOKEN, or run `consensus keys set huggingface`"
    try:
        info = HfApi(endpoint=_endpoint(), token=token).model_info(repo, files_metadata=True, timeout=30)
    except GatedRepoError:
        raise HubError(
            f"{repo} is gated: accept its terms at {_endpoint() or 'https://huggingface.co'}/{repo}, and {how}"
        ) from None
    except RepositoryNotFoundError:
        raise HubError(
            f"the Hugging Face hub has no model {repo}, or it is private: check the name, or {how}"
        ) from None
    except HFValidationError:
        raise HubError(f"{repo!r} is no name of a repository: write OWNER/NAME") from None
    except HfHubHTTPError as error:
        raise _UnreachableError(f"the Hugging Face hub does not tell of it: {_short(error)}") from None
    except Exception as error:
        raise _UnreachableError(f"the Hugging Face hub cannot be reached: {_short(error)}") from None
    siblings = {one.rfilename: one.size for one in info.siblings or ()}
    names = wanted(siblings, repo)
    sizes = [siblings[name] for name in names]
    stated = next((tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), None)
    whole = sum(size for size in sizes if size is not None) if None not in sizes else None
    return HubFile(repo, info.sha or "main", names, whole, stated, token)


def choose(files: Iterable[str], repo: str, quant: str | None) -> tuple[str, ...]:
    """Choose a GGUF among the files of a repository; all parts of it, in order.

    Raises:
        HubError: If there is none of that quantization, or a part is missing.
    """
    models = sorted(name for name in files if name.endswith(".gguf") and not _NOT_A_MODEL.search(name))
    by_quant: dict[str, str] = {}
    for name in sorted((name for name in models if _is_first(name)), key=len):
        by_quant.setdefault(_quant_of(name) or "", name)
    if not by_quant:
        raise HubError(f"{repo} has no GGUF file: name a repository that has, often NAME-GGUF")
    known = sorted(by_quant, key=lambda one: (PREFERRED.index(one) if one in PREFERRED else len(PREFERRED), one))
    if quant is not None and quant not in by_quant:
        raise HubError(f"{repo} has no quantization {quant}: use one of {', '.join(filter(None, known)) or 'none'}")
    first = by_quant[known[0] if quant is None else quant]
    return tuple(_parts(first, set(models), repo))


def _parts(first: str, models: set[str], repo: str) -> Iterator[str]:
    split = _PART.search(first)
    if split is None:
        yield first
        return
    for number in range(1, int(split["all"]) + 1):
        name = f"{first[: split.start()]}-{number:05d}-of-{split['all']}.gguf"
        if name not in models:
            raise HubError(f"{repo}: {name} is missing, which is a part of {first}")
        yield name


def _is_first(name: str) -> bool:
    split = _PART.search(name)
    return split is None or int(split["number"]) == 1


def _quant_of(name: str) -> str | None:
    """Return the quantization that the name of a file or its folder tells."""
    found = _QUANT.findall(_PART.sub("", name).removesuffix(".gguf").upper())
    return found[-1] if found else None


def _cached(repo: str, quant: str | None) -> HubFile | None:
    snapshot = _snapshot(repo)
    if snapshot is None:
        return None
    try:
        names = choose(_names_in(snapshot), repo, quant)
    except HubError:
        return None
    return HubFile(repo, snapshot.name, names)


def _snapshot(repo: str) -> Path | None:
    folder = _folder(repo)
    with_commit = folder / "refs" / "main"
    return folder / "snapshots" / with_commit.read_text().strip() if with_commit.is_file() else None


def _names_in(snapshot: Path) -> list[str]:
    return [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf") if path.is_file()]


def _folder(repo: str) -> Path:
    return _cache() / f"models--{repo.replace('/', '--')}"


@lru_cache(maxsize=1)
def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or None


def _short(error: BaseException) -> str:
    """Say in one line what went wrong; the hub's own errors go over several."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}".rstrip(": ")
