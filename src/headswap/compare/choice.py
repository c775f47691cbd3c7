"""Which networks a screening ranks first."""

from headswap.errors import UserError
from headswap.io import not_made_yet, read_csv
from headswap.params import Params
from headswap.paths import METRICS

TABLE = METRICS / "comparison.csv"


def best_models(params: Params, count: int) -> list[str]:
    """Return the networks of the comparison's best cells, the best first."""
    if not TABLE.exists():
        raise not_made_yet(TABLE)
    models = {cell.name: cell.model for cell in params.cells()}
    ranked = [row for row in read_csv(TABLE) if row["rank"] and row["cell"] in models]
    ranked.sort(key=lambda row: int(row["rank"]))
    best = list(dict.fromkeys(models[row["cell"]] for row in ranked))
    if len(best) < count:
        raise UserError(
            f"{TABLE} ranks {len(best)} networks of params.yaml, not {count}.\n"
            "Choose fewer, or bring it up to date with: dvc repro"
        )
    return best[:count]
