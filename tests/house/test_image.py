"""What the deployments read and write out of the box is where the image's user may do so. Without a container engine."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kits.consortium_kit import say
from tests.kits.deployment_kit import run_deployment

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "deployments" / "docker" / "Dockerfile"
DEPLOYMENTS = {one["name"]: one for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
USER = 1001


@pytest.fixture
def image(tmp_path):
    """Carry out the image's steps that make files and folders, below a folder: what it is built of, and whose it is."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    whole = tmp_path / "image"
    folder = whole
    root = os.getuid() == 0
    for line in text.splitlines():
        step, _, rest = line.partition(" ")
        if step == "WORKDIR":
            folder = whole / rest.strip("/")
            folder.mkdir(parents=True)
        elif step == "RUN" and (made := re.search(r"install --directory [^&]*", rest)):
            words = shlex.split(made[0])
            owner = [] if root else ["--owner", "--group"]
            words = [one for at, one in enumerate(words) if one not in owner and words[at - 1] not in owner]
            subprocess.run([str(whole / one.strip("/")) if one.startswith("/") else one for one in words], check=True)
        elif step == "COPY":
            flags = [one for one in rest.split() if one.startswith("--")]
            *sources, target = (one for one in rest.split() if not one.startswith("--"))
            for source in sources:
                to = whole / target.strip("/") if target.startswith("/") else folder / target
                if target.endswith("/"):
                    to.mkdir(exist_ok=True)
                    to /= Path(source).name
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, symlinks=True)
                else:
                    shutil.copy(ROOT / source, to)
                if root and f"--chown={USER}:{USER}" in flags:
                    for one in (to, *to.rglob("*")):
                        os.chown(one, USER, USER)
    return whole


def setting(name):
    found = re.search(rf"\b{name}=(\S+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert found, f"the image does not set {name}"
    return found[1]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
def test_the_folder_of_files_belongs_to_the_user_and_the_code_does_not(image):
    files = image / setting("CONSENSUS_FILES").strip("/")
    results = image / setting("PREFECT_RESULTS_LOCAL_STORAGE_PATH").strip("/")
    ui = image / setting("PREFECT_UI_STATIC_DIRECTORY").strip("/")
    assert {one.stat().st_uid for one in (results, ui, files, *files.rglob("*"))} == {USER}
    assert {one.lstat().st_uid for one in (image / "opt" / "consensus").rglob("*")} == {0}


def test_what_the_package_links_to_is_in_the_image(image):
    """Else the package cannot be built there."""
    whole = image / "opt" / "consensus"
    links = [one for one in whole.rglob("*") if one.is_symlink()]
    assert links and all(one.resolve(strict=True).is_relative_to(whole) for one in links)


@pytest.mark.parametrize("name", ["batch", "prefer-prompts"])
async def test_a_deployment_runs_as_it_is_in_the_image(name, image, results, vendors, monkeypatch):
    say(vendors, one="of the loopback model")
    files = image / setting("CONSENSUS_FILES").strip("/")
    monkeypatch.setenv("CONSENSUS_FILES", str(files))
    before = set(image.rglob("*"))
    state = await run_deployment(DEPLOYMENTS[name])
    assert state.is_completed(), state.message
    written = set(image.rglob("*")) - before
    assert written
    assert all(one.is_relative_to(files) for one in written)
    assert any("of the loopback model" in one.read_text() for one in written if one.is_file())


def test_the_folder_of_free_models_is_one_that_the_user_may_write(image):
    output = DEPLOYMENTS["openrouter-working-models"]["parameters"]["config"]["output_dir"]
    files = image / setting("CONSENSUS_FILES").strip("/")
    assert (files / output).resolve().parent == files.resolve()
