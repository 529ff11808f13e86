"""Names that are safe everywhere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.ids import box_id, repository_name, slug, task_id


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("pypi:jinja2", "jinja2"),
        ("git:/src/click.git", "click"),
        ("git:/mirrors/pallets+click/repo", "click"),
        ("git:/home/me/project/.git", "project"),
        ("git:/repo", "repository"),
    ],
)
def test_a_repository_has_a_telling_name(ref, name):
    assert repository_name(ref) == name


@given(st.text(max_size=200))
def test_a_slug_is_safe_and_short(text):
    assert re.fullmatch(r"[a-z0-9._-]{1,80}", slug(text))


def test_long_texts_that_differ_late_have_different_slugs():
    assert slug("a" * 200 + "b") != slug("a" * 200 + "c")


def test_ids_have_the_form_of_the_field():
    assert task_id("Pallets", "click", "1a2b") == "pallets__click-1a2b"
    assert re.fullmatch(r"box-[0-9a-f]{12}", box_id())
