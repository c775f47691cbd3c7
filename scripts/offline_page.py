"""Make ``.dvc/plots/page.html``, in which `dvc plots show` draws without a network.

    .venv/bin/python scripts/offline_page.py

The page carries Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) from vl-convert's bundle, wrapped in
a function of its own because its short global names would clash with the page's.
"""

from pathlib import Path

import vl_convert

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
{refresh_tag}
<meta charset="utf-8">
<title>headswap: plots</title>
<!-- Made by scripts/offline_page.py with vl-convert-python %s. -->
<script>(function () {
%s
const draw = window.vegaEmbed;
window.vegaEmbed = (element, spec) => draw(element, spec, {renderer: "svg"}); // sharp in print
})();</script>
<style>
body { font-family: system-ui, sans-serif; margin: 1.5rem; }
main {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%%, 36rem), 1fr));
  gap: 2.5rem 1.5rem;
  align-items: start;
}
main > div { overflow-x: auto; }
main img { max-width: 100%%; }
/* DVC's frame around an image, its path, and the name of the only revision */
main > div, main > div > div { border: none !important; margin: 0 !important; }
main > div > p, main > div > div:only-of-type > p { display: none; }
</style>
</head>
<body>
<h1>headswap</h1>
<main>
{plot_divs}
</main>
</body>
</html>
"""

bundle = vl_convert.javascript_bundle().replace("</script", "<\\/script")
page = PAGE % (vl_convert.__version__, bundle)
Path(__file__).parents[1].joinpath(".dvc/plots/page.html").write_text(page, encoding="utf-8")
