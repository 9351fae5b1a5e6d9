"""
The base page, with a template of this test.
"""

import jinja2
import pytest
from pages import ODD_NAMES, fits_its_window

from ohem_d2.visualization import page as page_module
from ohem_d2.visualization.page import write_page

pytest_plugins = ["pages"]

TEMPLATE = """{% extends "page.html" %}
{% block title %}A test{% endblock %}
{% block body %}
<h1>Names</h1>
<div class="wide"><table><tr>
{% for name in names %}<td title="{{ name }}">{{ name }}</td>{% endfor %}
</tr></table></div>
{% endblock %}
"""


@pytest.fixture
def template(monkeypatch):
    theirs = page_module.PackageLoader("ohem_d2", "visualization")
    ours = jinja2.DictLoader({"test.html": TEMPLATE})
    monkeypatch.setattr(
        page_module, "PackageLoader", lambda *_: jinja2.ChoiceLoader([ours, theirs])
    )
    return "test.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_odd_names_are_shown(template, tmp_path, open_page, scheme):
    write_page(tmp_path / "index.html", template, names=ODD_NAMES)
    phone = {"width": 390, "height": 844}
    page = open_page(tmp_path / "index.html", color_scheme=scheme, viewport=phone)
    assert page.title() == "A test"
    assert page.locator("td").all_text_contents() == ODD_NAMES
    assert [x.get_attribute("title") for x in page.locator("td").all()] == ODD_NAMES
    assert fits_its_window(page)  # the table scrolls for itself
    text, background = page.evaluate(
        "(x => [x.color, x.backgroundColor])(getComputedStyle(document.body))"
    )
    light = {"light": "rgb(34, 34, 34) on rgb(255, 255, 255)"}
    assert f"{text} on {background}" == light.get(scheme, "rgb(221, 221, 221) on rgb(22, 22, 22)")


def test_a_failure_leaves_no_unfinished_page(template, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(jinja2.UndefinedError, match="names"):
        write_page(tmp_path / "index.html", template)
    assert (tmp_path / "index.html").read_text() == "mine"
    assert [x.name for x in tmp_path.iterdir()] == ["index.html"]
