"""
Pages that open from disk, without a network: one HTML file, and pictures beside it.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..utils import atomic_file

__all__ = ["write_page"]


def write_page(path: str | Path, template: str, **values: object) -> None:
    """
    Args:
        path (str): the file to write, whole or not at all.
        template (str): the name of a file beside this one, which extends page.html.
        values: what it names. Text is escaped.
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
