"""Every public name of the first edition is still there, or the changelog names its successor."""

import pathlib
import re

import pytest

import pyrovae

HERE = pathlib.Path(__file__).parent
BEFORE = (HERE / "names_before.txt").read_text().split()
CHANGED = (HERE.parent / "CHANGELOG.md").read_text().split("### Changed", 1)[1]
MOVED = dict(re.findall(r"`pvae\.(\w+)` is `pvae\.([\w.]+)`", CHANGED))


@pytest.mark.parametrize("name", BEFORE)
def test_a_name_exists_or_the_changelog_names_its_successor(name):
    assert name in pyrovae.__all__ or name in MOVED, f"{name} vanished: name its successor in the changelog"


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_successor_exists_and_its_predecessor_does_not(name):
    found = pyrovae
    for part in MOVED[name].split("."):
        found = getattr(found, part)
    assert name not in pyrovae.__all__
