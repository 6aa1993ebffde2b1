"""The page of tables and figures, opened in Chromium."""

import json
import re
import shutil
import struct
import subprocess
from html import unescape

import pytest
from matplotlib.image import imread

from experiment_case import FIND, GRID, LORA2, finished
from lora2.lab.experiments.measured.iteration_table import iteration_table
from lora2.lab.experiments.measured.times import MeasuredTimes
from lora2.lab.experiments.outputs import write_page
from lora2.lab.experiments.tables.grid import Grid, Row

pytestmark = pytest.mark.engines

WIDTH, HEIGHT = 1400, 2600
# Runs after everything has loaded; --dump-dom prints the page with what it adds.
SCRIPT = """
<script>
addEventListener("load", () => {
  const seen = {
    images: [...document.images].map(image => [
      image.closest("[id]").id, image.complete, image.naturalWidth, image.clientWidth]),
    requests: performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
    tables: [...document.querySelectorAll("section[id] table")].map(table => [
      table.closest("[id]").id, table.rows.length, table.clientHeight]),
    links: [...document.querySelectorAll("nav a")].map(link =>
      document.querySelector(link.getAttribute("href")) !== null),
    width: document.documentElement.scrollWidth,
  };
  const found = document.createElement("output");
  found.textContent = JSON.stringify(seen);
  document.body.append(found);
});
</script>
"""
TIMES = MeasuredTimes(
    "cola", "tiny", 32, {"adalora": [2.0, 1.0, 1.0], "lora2": [1.0, 0.8, 0.9]}, 2, "a CPU", {}
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Calls Chromium without a window; skips where it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("`make test-engines` installs Chromium, as root on Debian")

    def call(*arguments):
        profile = tmp_path_factory.mktemp("profile")
        options = [
            # Root may not have a sandbox; a small /dev/shm is not enough for pictures.
            "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
            "--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}",
            "--virtual-time-budget=10000",
        ]  # fmt: skip
        found = subprocess.run(
            [program, *options, *arguments], capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return call


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with tables of runs, a measured one, curves and kept singular values."""
    run = LORA2.runs["cola"][0]
    modules = ("attention.self.query", "attention.self.key", "intermediate.dense")
    kept = {
        f"encoder.layer.{layer}.{name}": (layer * 3 + index * 2) % 9
        for layer in range(6)
        for index, name in enumerate(modules)
    }
    metrics = {"matthews_correlation": 0.5}
    record = finished(run, metrics, metrics, kept=kept, initial=8)
    figure3 = Grid(
        "figure3", "Kept", GRID.columns[:1], (Row("LoRA²", "lora2", "k=1", {"cola": (run,)}),)
    )
    return write_page(
        "LoRA²: preset tiny", [GRID, figure3], [iteration_table([TIMES])],
        lambda description: record if description == run else FIND(description),
        tmp_path_factory.mktemp("page"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen(page, chromium):
    """What the browser makes of the page."""
    wrapper = page.with_name("watched.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("</body>") == 1
    wrapper.write_text(text.replace("</body>", f"{SCRIPT}</body>"), encoding="utf-8")
    (found,) = re.findall("<output>(.*)</output>", chromium("--dump-dom", wrapper.as_uri()))
    return json.loads(unescape(found))


def test_every_table_stands_on_the_page(seen):
    tables = {name: rows for name, rows, height in seen["tables"] if height > 0}
    # A heading and the lines of two rows; a heading and a line.
    assert tables.keys() == {"table1", "table2"}
    assert tables["table1"] == 1 + 5 + 3


def test_every_picture_is_decoded_and_fits_the_page(seen):
    assert {name for name, *_ in seen["images"]} == {"table1-curves", "figure3"}
    for _, complete, natural, shown in seen["images"]:
        assert complete
        assert natural > 0
        assert 0 < shown <= WIDTH


def test_every_link_leads_somewhere(seen):
    assert seen["links"] == [True] * 4


def test_nothing_is_loaded_from_elsewhere(seen):
    assert seen["requests"] == []


def test_the_page_is_no_wider_than_the_window(seen):
    assert seen["width"] <= WIDTH


def test_the_page_is_painted(page, chromium):
    picture = page.with_name("page.png")
    chromium(f"--screenshot={picture}", page.as_uri())
    # Width and height are in the header of a PNG.
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (WIDTH, HEIGHT)
    pixels = imread(picture)[:, :, :3]
    # Black on white, in the tables above and in the figures below.
    assert pixels[0, 0].min() == 1
    above, below = pixels[: HEIGHT // 3], pixels[HEIGHT // 3 : 2 * HEIGHT // 3]
    assert all((part.max(axis=2) < 0.3).mean() > 0.001 for part in (above, below))
