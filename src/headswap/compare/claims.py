"""Test the write-up's conclusions, each by an interval."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, FiniteFloat
from ruamel.yaml import YAML

from headswap.compare.intervals import Estimate, estimate_difference, estimate_log_ratio
from headswap.compare.results import TIMING_CONDITIONS, Cost, Results
from headswap.io import explain_damage
from headswap.paths import PUBLISHED

CLAIMS = PUBLISHED / "claims.yaml"
VERDICTS = {1: "supported", 0: "inconclusive", -1: "contradicted"}
ONE_RUN = "one run each: add seeds"


class Claim(pydantic.BaseModel, extra="forbid", frozen=True):
    """An entry of ``claims.yaml``, where the keys are explained."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    says: str
    quantity: Literal["accuracy", "seconds"]
    compare: Annotated[list[dict[str, FiniteFloat]], Field(min_length=1)]
    direction: Literal["above", "below"]
    per: Cost | None = None
    published: dict[str, Annotated[FiniteFloat, Field(gt=0)]]

    @pydantic.model_validator(mode="after")
    def _check_keys_together(self) -> Self:
        if sorted(self.published) != self.cells:
            raise ValueError(f"published must give a figure of each of {', '.join(self.cells)}")
        for weights in self.compare:
            if min(weights.values(), default=0) >= 0 or max(weights.values()) <= 0:
                raise ValueError("compare needs a weight above zero and one below")
            if self.quantity == "seconds" and {abs(weight) for weight in weights.values()} != {1}:
                raise ValueError("with seconds, the weights under compare are 1 and -1")
        if self.per and self.quantity == "accuracy":
            raise ValueError("per goes with seconds")
        return self

    @property
    def cells(self) -> list[str]:
        """The names of all cells that the claim compares, sorted."""
        return sorted(set().union(*self.compare))


def read_claims() -> list[Claim]:
    """Read the claims; a UserError says if the file is not a list of them, or an id is repeated."""
    with explain_damage(CLAIMS, "Correct it, or restore it with: git checkout data"):
        entries = YAML(typ="safe").load(CLAIMS.read_text(encoding="utf-8"))
        try:
            claims = pydantic.TypeAdapter(list[Claim]).validate_python(entries)
        except pydantic.ValidationError as error:
            raise ValueError("; ".join(map(_describe, error.errors()))) from None
        names = [claim.id for claim in claims]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one is called {', '.join(repeated)}")
    return claims


def _describe(error: Any) -> str:
    where = [f"entry {key + 1}" if isinstance(key, int) else key for key in error["loc"]]
    return ": ".join([*where, error["msg"].removeprefix("Value error, ")])


def evaluate_claim(claim: Claim, results: Results) -> dict[str, Any]:
    """Test a claim at the best epochs, as the write-up did; return its entry of ``claims.json``.

    It is ``supported`` if the interval of every comparison lies on the claimed side, and
    ``contradicted`` if one lies on the other; ``why`` is the reason if there are no intervals.
    ``images_needed`` for a decision is None if there is one, or no number would suffice.
    """
    reason = _reason_not_tested(claim, results)
    effects = [] if reason else [_effect(claim, weights, results) for weights in claim.compare]
    signs = [e.sign if claim.direction == "above" else -e.sign for e, _ in effects]
    names, entries = ("effect", "low", "high", "published"), []
    by_ratio = f"power of {claim.per}" if claim.per else "times"
    unit = "points" if claim.quantity == "accuracy" else by_ratio
    convert = {"points": lambda effect: 100 * effect, "times": math.exp}.get(unit, float)
    for estimate, published in effects:
        figures = [round(convert(figure), 4) for figure in (*estimate[:3], published)]
        needed = None if estimate.sign else estimate.images_needed
        entries.append(dict(zip(names, figures, strict=True)) | {"images_needed": needed})
    return {
        "id": claim.id,
        "says": claim.says,
        "verdict": VERDICTS[min(signs, default=0)] if signs or reason == ONE_RUN else "not tested",
        "why": reason,
        "unit": unit,
        "effects": entries,
    }


def _reason_not_tested(claim: Claim, results: Results) -> str | None:
    """Return why a claim is not tested, the same words for all claims with that reason."""
    cells, params, timed = claim.cells, results.params, claim.quantity == "seconds"
    if results.design.folds:
        return "about one split, and these cells were cross-validated"
    if not results.cells.keys() >= set(cells):
        return "about cells that are not in the matrix"
    figures, conditions = results.figures.loc[cells], ", ".join(TIMING_CONDITIONS)
    own = ", ".join(sorted({results.cells[cell].model for cell in cells} & set(params.factories)))
    varied = [cell for cell in cells if timed or not results.stands_for_every_seed(cell)]
    imagenet, same = params.weights == "imagenet", results.timed_under_same_conditions(cells)
    costs = figures[claim.per].to_dict() if claim.per else claim.published
    reasons = {
        f"about torchvision's network, and {own} has a factory of its own": own,
        "some of the runs diverged": figures["diverged"].any(),
        f"about ImageNet weights, and these are {params.weights}": not timed and not imagenet,
        "about other images": not timed and results.published["summary"].empty,
        ONE_RUN: (figures["seeds"][varied] == 1).any(),
        f"the conditions of timing differed ({conditions})": timed and not same,
        f"the cells have the same {claim.per}": claim.per
        and not all(_log_ratio(weights, costs) for weights in claim.compare),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _effect(claim: Claim, weights: Mapping[str, float], results: Results) -> tuple[Estimate, float]:
    """Return a comparison's estimate and the write-up's figure."""
    if claim.quantity == "accuracy":
        published = sum(weight * claim.published[cell] for cell, weight in weights.items())
        largest = sum(weight for weight in weights.values() if weight > 0)
        values, prior = results.weighted_correct(weights, "best"), results.replicate_prior("best")
        return estimate_difference(values, prior, results.design, largest=largest), published
    over, under = ([results.seconds(cell) for cell in side] for side in _sides(weights))
    estimate, published = estimate_log_ratio(over, under), _log_ratio(weights, claim.published)
    costs = _log_ratio(weights, results.figures[claim.per].to_dict()) if claim.per else 1.0
    low, high = sorted((estimate.low / costs, estimate.high / costs))
    return Estimate(estimate.value / costs, low, high), published / costs


def _log_ratio(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    over, under = (sum(values[cell] for cell in side) for side in _sides(weights))
    return math.log(over / under)


def _sides(weights: Mapping[str, float]) -> list[list[str]]:
    """Return the cells with weights above zero, and those with weights below."""
    return [[cell for cell, weight in weights.items() if sign * weight > 0] for sign in (1, -1)]
