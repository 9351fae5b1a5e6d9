"""
Fixtures for tests that open pages in Chromium. A test module that uses them says
`pytest_plugins = ["pages"]`. Without playwright or Chromium, these tests are skipped.
"""

from pathlib import Path

import pytest

ODD_NAMES = ["<script>alert(1)</script>", "\"&amp;'", "卷心菜", "ключ", "{{ 7 * 7 }}", "a\\b"]


@pytest.fixture(scope="session")
def chromium():
    playwright_api = pytest.importorskip("playwright.sync_api")
    from screenshot import NoChromiumError, start_chromium

    with playwright_api.sync_playwright() as playwright:
        try:
            browser = start_chromium(playwright)
        except NoChromiumError as e:
            pytest.skip(str(e))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """
    Opens an HTML file in Chromium, offline, and returns its playwright Page. The test fails if a
    page logs an error or a warning, a script fails, a dialog opens, or anything but an existing
    file is requested.
    """
    problems, contexts = [], []

    def open_page(path, **options):
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda x: problems.append(x.text) if x.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda x: problems.append(str(x)))
        page.on("dialog", lambda x: (problems.append(f"dialog: {x.message}"), x.dismiss()))
        page.on("requestfailed", lambda x: problems.append(f"failed: {x.url}"))
        page.on(
            "request",
            lambda x: None if x.url.startswith(("file:", "data:")) else problems.append(x.url),
        )
        page.goto(Path(path).resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def fits_its_window(page):
    """
    Whether the page needs no horizontal scrolling.
    """
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
