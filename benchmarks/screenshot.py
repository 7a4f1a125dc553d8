"""Takes the picture in the README, the top of a report page in Chromium, and writes docs/report.png.

    python benchmarks/screenshot.py OUTPUT_OF_PRUNE/report.html

Needs chromium and chromedriver.
"""

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from testing.browser import open_browser, show  # noqa: E402

COLORS = 96  # a palette keeps the file small; text has few colours
MARGIN = 28  # pixels below the network section


def main() -> None:
    """Takes the picture down to the end of the network section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "report.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        show(browser, arguments.page, scheme=arguments.scheme, scale=2)
        bottom = browser.execute_script("return document.querySelector('.network').getBoundingClientRect().bottom")
        show(browser, arguments.page, height=int(bottom) + MARGIN, scheme=arguments.scheme, scale=2)
        screenshot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    image = (
        Image.open(io.BytesIO(base64.b64decode(screenshot))).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    )
    image.save(arguments.output, optimize=True)
    print(f"{arguments.output}: {image.size[0]} x {image.size[1]}, {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
