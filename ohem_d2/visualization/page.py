"""
Pages that open from disk, offline: one HTML file with pictures beside it. Needs jinja2.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..utils import atomic_file

__all__ = ["write_page"]


def write_page(path: str | Path, template: str, **values: object) -> None:
    """
    Args:
        path (str): file to write, whole or not at all.
        template (str): name of a file beside this one, which extends page.html.
        values: variables of the template. Text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("ohem_d2", "visualization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values)
    with atomic_file(path) as file:
        file.write_text(page, encoding="utf-8")
