"""A clone to launch from, and the cloud to launch into."""

import os
import shutil
import signal
import subprocess

import pytest
from fake_cloud import ROOT, Cloud


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A committed clone of what the scripts need."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for path in [*ROOT.glob("requirements*"), ROOT / "pyproject.toml", ROOT / ".gitignore"]:
        shutil.copy(path, folder)
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", "-c"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, "commit.gpgsign=false", *command], check=True)
    return folder


@pytest.fixture
def cloud(clone, tmp_path):
    cloud = Cloud(clone, tmp_path)
    yield cloud
    for path in tmp_path.glob("w?/mixer/.run/pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue
