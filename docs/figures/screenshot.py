#!/usr/bin/env python3
"""
Take a screenshot of a page in Chromium, offline.

    python docs/figures/screenshot.py output/demo/index.html demo.png
    python docs/figures/screenshot.py output/demo/index.html phone.png --size 390x844 --dark

Needs Chromium: `apt install chromium`, or `.venv/bin/playwright install chromium`.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Optional

from playwright.sync_api import Browser, Playwright, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class NoChromiumError(RuntimeError):
    """
    Chromium is not installed.
    """


def start_chromium(playwright: Playwright) -> Browser:
    """
    Returns:
        Browser: the installed Chromium, or else playwright's.

    Raises:
        NoChromiumError: if neither exists.
    """
    installed: Optional[str] = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if installed is None and not os.path.exists(playwright.chromium.executable_path):
        raise NoChromiumError(
            "Chromium is not installed: apt install chromium, or "
            ".venv/bin/playwright install chromium."
        )
    return playwright.chromium.launch(executable_path=installed)


def parse_size(text: str) -> dict[str, int]:
    width, height = map(int, text.split("x"))
    return {"width": width, "height": height}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="an .html file")
    parser.add_argument("picture", type=Path, help="the .png or .jpg to write")
    parser.add_argument(
        "--size", type=parse_size, default="1280x900", help="window size, WIDTHxHEIGHT"
    )
    parser.add_argument("--dark", action="store_true", help="use the dark color scheme")
    parser.add_argument(
        "--click", action="append", default=[], metavar="SELECTOR", help="click on it first"
    )
    parser.add_argument(
        "--of", metavar="SELECTOR", help="capture this element instead of the window"
    )
    args = parser.parse_args()
    if not args.page.exists():
        sys.exit(f"screenshot.py: {args.page} does not exist.")
    with sync_playwright() as playwright:
        try:
            browser = start_chromium(playwright)
        except NoChromiumError as e:
            sys.exit(f"screenshot.py: {e}")
        page = browser.new_page(
            viewport=args.size, color_scheme="dark" if args.dark else "light", offline=True
        )
        page.goto(args.page.resolve().as_uri())
        for selector in args.click:
            page.click(selector)
        page.wait_for_load_state("networkidle")
        (page.locator(args.of).first if args.of else page).screenshot(path=args.picture)
        browser.close()


if __name__ == "__main__":
    main()
