"""What says which release this is agrees."""

import re
import tomllib

import yaml

from tests.helpers import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_newest_entry_and_the_citation_name_this_version():
    newest = re.search(r"^## \[(?!Unreleased)(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == VERSION

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], str(citation["date-released"])) == (VERSION, newest[2])


def test_every_python_that_wheels_are_built_for_is_tried():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    built = [name.removesuffix("-*").replace("cp3", "3.") for name in settings["tool"]["cibuildwheel"]["build"]]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow["jobs"]["try"]["strategy"]["matrix"]["python"] == built
    assert settings["project"]["requires-python"] == f">={built[0]}"
    assert workflow["jobs"]["publish"]["needs"] == "try"


def test_the_licence_is_the_one_that_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"SPDX identifier: {project['license']}" in (ROOT / "LICENSE").read_text()
