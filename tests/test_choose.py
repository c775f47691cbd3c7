"""A screening: probes alone, and the networks that are chosen after it."""

from pathlib import Path

from conftest import edit, headswap

from headswap import params
from headswap.io import write_csv


def test_a_matrix_of_probes_alone_is_compared_and_its_best_are_chosen(own_trained, no_pictures):
    edit(modes=[])
    assert [cell.name for cell in params.load().cells()] == ["tiny-probe", "resnet18-probe"]
    assert "2 cells" in headswap("check")[0]
    headswap("compare")
    report = Path("metrics/comparison.md").read_text()
    assert "tiny-probe" in report and "resnet18-probe" in report and "-frozen" not in report
    lines = Path("metrics/comparison.csv").read_text().splitlines()
    (best,) = [line.split("-")[0] for line in lines if ",1," in line[:20]]
    printed = headswap("choose", 1)[0]
    assert f"{best}-finetune, {best}-frozen, {best}-probe" in printed
    chosen = params.load()
    assert (chosen.models, chosen.modes) == ([best], ["finetune", "frozen"])
    assert "tiny" in chosen.factories


def test_the_best_networks_are_written_and_comments_stay(workspace):
    text = Path("params.yaml").read_text()
    models = "models: # which\n  - a # first\n  - b\n  - c # third\n# of mine\nfactories"
    start, end = text.index("models:"), text.index("factories")
    text = text[:start] + models + text[end:].replace("factories", "", 1)
    Path("params.yaml").write_text(text)
    ranks = [("a-finetune", 2), ("a-frozen", 4), ("b-frozen", ""), ("c-frozen", 1), ("z-probe", 3)]
    assert "no metrics/comparison.csv yet" in headswap("choose", 2, code=1)[1]
    write_csv("metrics/comparison.csv", ["cell", "rank"], ranks)
    assert "ranks 2 networks of params.yaml, not 3" in headswap("choose", 3, code=1)[1]
    headswap("choose", 2)
    found = Path("params.yaml").read_text()
    assert "models: # which\n  - c\n  - a\n# of mine\nfactories" in found
    assert "tiny" in params.load().factories
