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
window.vegaEmbed = async (element, spec) => {
  await draw(element, spec, {renderer: "svg"}); // sharp in print
  const picture = document.querySelector(element + " svg");
  if (picture.viewBox.baseVal.width > 650) picture.closest("main > div").classList.add("wide");
};
})();</script>
<style>
body { font-family: system-ui, sans-serif; margin: 1rem 2rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%%, 36rem), 1fr)); }
main { gap: 2.5rem 2rem; align-items: start; grid-auto-flow: row dense; }
@media (min-width: 1280px) { .wide { grid-column: span 2; } }
main > div { min-width: 0; border: none !important; white-space: normal !important; }
.vega-embed.has-actions { padding-right: 0; }
.vega-embed svg, img { max-width: 100%%; height: auto; }
.chart-wrapper { max-width: 100%%; }
/* What DVC writes above an image: its path, for which it has a title, and a single revision. */
main > div > p, main > div > div:only-of-type > p { display: none; }
main > div > div { border: none !important; margin: 0 !important; text-align: left; }
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
