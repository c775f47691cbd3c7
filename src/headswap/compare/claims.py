"""The write-up's conclusions, each tested by an interval."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headswap.compare.intervals import Estimate, contrast, log_ratio
from headswap.compare.results import COSTS, TIMED_ON
from headswap.errors import UserError, bulleted

CLAIMS = Path("data/published/claims.yaml")


class Claim(BaseModel):
    """An entry of ``claims.yaml``, which says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    says: str
    quantity: Literal["accuracy", "seconds"]
    compare: Annotated[list[dict[str, FiniteFloat]], Field(min_length=1)]
    direction: Literal["above", "below"]
    per: Literal[COSTS] | None = None
    published: dict[str, FiniteFloat]

    @model_validator(mode="after")
    def _whole(self):
        if sorted(self.published) != self.cells:
            raise ValueError(f"published must give a figure of each of {', '.join(self.cells)}")
        for weights in self.compare:
            if min(weights.values(), default=0) >= 0 or max(weights.values()) <= 0:
                raise ValueError("compare needs a weight above zero and one below")
            if self.quantity == "seconds" and {abs(weight) for weight in weights.values()} != {1}:
                raise ValueError("of seconds, the weights under compare are 1 and -1")
        if self.quantity == "seconds" and min(self.published.values()) <= 0:
            raise ValueError("published seconds are above zero")
        if self.per and self.quantity == "accuracy":
            raise ValueError("per goes with seconds")
        return self

    @property
    def cells(self):
        """All cells it speaks of, sorted."""
        return sorted({cell for weights in self.compare for cell in weights})


def read(path=CLAIMS):
    """Read the claims.

    Returns
    -------
    list of Claim

    Raises
    ------
    UserError
        If the file is no list of claims, or has two of one name.
    """
    try:
        entries = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
        claims = TypeAdapter(list[Claim]).validate_python(entries)
        names = [claim.id for claim in claims]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one is called {', '.join(twice)}")
    except ValidationError as error:
        why = bulleted([_fault(fault) for fault in error.errors()])
    except (OSError, ValueError, YAMLError) as error:
        why = f"  {error}"
    else:
        return claims
    raise UserError(f"{path} is no list of claims:\n{why}\nMend it, then: dvc repro")


def _fault(fault):
    number, *where = fault["loc"] or ("list",)
    place = f"entry {number + 1}" if isinstance(number, int) else number
    return f"{'.'.join(map(str, [place, *where]))}: {fault['msg'].removeprefix('Value error, ')}"


def test(claim, results):
    """Hold a claim against the results.

    Parameters
    ----------
    claim : Claim
    results : results.Results

    Returns
    -------
    dict
        ``id``, ``says``; ``verdict``: ``supported`` if every comparison's interval lies where the
        claim says, ``contradicted`` if one lies wholly on the other side, else ``inconclusive``,
        or ``not tested``; ``why`` not; ``unit``; ``effects``, a dict a comparison with ``effect``,
        ``low``, ``high``, ``published`` (the write-up's effect) and ``images_needed`` (to tell;
        None if it is told, or no number would do).
    """
    outcome = {
        "id": claim.id,
        "says": claim.says,
        "verdict": "not tested",
        "why": _obstacle(claim, results),
        "unit": _unit(claim),
        "effects": [],
    }
    if outcome["why"]:
        return outcome
    wanted = 1 if claim.direction == "above" else -1
    signs = []
    for weights in claim.compare:
        estimate, published = _estimate(claim, weights, results)
        signs.append(estimate.sign * wanted)
        figures = (estimate.value, estimate.low, estimate.high, published)
        keys = ("effect", "low", "high", "published")
        outcome["effects"].append(
            {
                **{key: _shown(claim, figure) for key, figure in zip(keys, figures, strict=True)},
                "images_needed": None if estimate.sign else estimate.images_needed,
            }
        )
    verdicts = {1: "supported", 0: "inconclusive", -1: "contradicted"}
    return {**outcome, "verdict": verdicts[min(signs)]}


def _unit(claim):
    if claim.quantity == "accuracy":
        return "points"
    return f"power of {claim.per}" if claim.per else "times"


def _obstacle(claim, results):
    """Return why a claim cannot be tested, or None."""
    params = results.params
    missing = [cell for cell in claim.cells if cell not in results.cells]
    if missing:
        return f"not in the matrix: {', '.join(missing)}"
    own = sorted({results.cells[cell].model for cell in claim.cells} & set(params.factories))
    if own:
        return f"it is about torchvision's network, and {', '.join(own)} has a factory of its own"
    if any(results.figures.diverged[cell] for cell in claim.cells):
        return "some of its runs diverged and ended early"
    if claim.quantity == "seconds":
        if any(len(results.seconds(cell)) < 2 for cell in claim.cells):
            return "one run a cell has no spread; add seeds"
        if not results.timed_alike(claim.cells):
            return f"its runs were not timed alike ({', '.join(TIMED_ON)})"
        if claim.per and not all(_cost_ratio(claim, cells, results) for cells in claim.compare):
            return f"its cells have the same {claim.per}"
        return None
    if params.weights != "imagenet":
        return f"it is about ImageNet weights, and these are {params.weights}"
    if results.published["summary"].empty:
        return "it is about other images"
    if any(len(results.contrast(weights)) < 2 for weights in claim.compare):
        return "fewer than two seeds were finished by all of its cells; add seeds"
    return None


def _estimate(claim, weights, results):
    """Return a comparison's estimate and the write-up's figure, both zero if there is no effect."""
    if claim.quantity == "accuracy":
        published = sum(weight * claim.published[cell] for cell, weight in weights.items())
        most = sum(weight for weight in weights.values() if weight > 0)
        return contrast(results.contrast(weights), most), published
    estimate = log_ratio(
        [results.seconds(cell) for cell, weight in weights.items() if weight > 0],
        [results.seconds(cell) for cell, weight in weights.items() if weight < 0],
    )
    published = _log_ratio_of_sums(weights, claim.published)
    if not claim.per:
        return estimate, published
    costs = _cost_ratio(claim, weights, results)
    low, high = sorted((estimate.low / costs, estimate.high / costs))
    return Estimate(estimate.value / costs, low, high), published / costs


def _shown(claim, figure):
    """Return a figure in the claim's unit."""
    if claim.quantity == "accuracy":
        return round(100 * figure, 4)
    return round(figure if claim.per else math.exp(figure), 4)


def _cost_ratio(claim, weights, results):
    """Return the logarithm of the ratio of the cells' costs."""
    return _log_ratio_of_sums(weights, results.figures[claim.per])


def _log_ratio_of_sums(weights, values):
    over = sum(values[cell] for cell, weight in weights.items() if weight > 0)
    under = sum(values[cell] for cell, weight in weights.items() if weight < 0)
    return math.log(over / under)
