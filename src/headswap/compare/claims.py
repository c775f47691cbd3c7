"""Test the write-up's conclusions, each by an interval."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

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

from headswap.compare.intervals import Estimate, estimate_difference, estimate_log_ratio
from headswap.compare.results import TIMING_CONDITIONS, Cost, Results
from headswap.errors import UserError, bulleted
from headswap.paths import PUBLISHED

CLAIMS = PUBLISHED / "claims.yaml"
VERDICTS = {1: "supported", 0: "inconclusive", -1: "contradicted"}
ONE_RUN = "one run each: add seeds"


class Claim(BaseModel):
    """An entry of ``claims.yaml``, where the keys are explained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    says: str
    quantity: Literal["accuracy", "seconds"]
    compare: Annotated[list[dict[str, FiniteFloat]], Field(min_length=1)]
    direction: Literal["above", "below"]
    per: Cost | None = None
    published: dict[str, FiniteFloat]

    @model_validator(mode="after")
    def _check_keys_together(self) -> Self:
        if sorted(self.published) != self.cells:
            raise ValueError(f"published must give a figure of each of {', '.join(self.cells)}")
        for weights in self.compare:
            if min(weights.values(), default=0) >= 0 or max(weights.values()) <= 0:
                raise ValueError("compare needs a weight above zero and one below")
            if self.quantity == "seconds" and {abs(weight) for weight in weights.values()} != {1}:
                raise ValueError("with seconds, the weights under compare are 1 and -1")
        if self.quantity == "seconds" and min(self.published.values()) <= 0:
            raise ValueError("published seconds must be above zero")
        if self.per and self.quantity == "accuracy":
            raise ValueError("per goes with seconds")
        return self

    @property
    def cells(self) -> list[str]:
        """The names of all cells that the claim compares, sorted."""
        return sorted({cell for weights in self.compare for cell in weights})


def read_claims() -> list[Claim]:
    """Read the claims; a UserError says if the file is not a list of them, or an id is repeated."""
    if not CLAIMS.exists():
        raise UserError(f"There is no {CLAIMS}.\nRestore it with: git checkout data")
    try:
        entries = YAML(typ="safe").load(CLAIMS.read_text(encoding="utf-8"))
        claims = TypeAdapter(list[Claim]).validate_python(entries)
        names = [claim.id for claim in claims]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"more than one is called {', '.join(repeated)}")
    except ValidationError as error:
        reason = bulleted([_describe(entry) for entry in error.errors()])
    except (OSError, ValueError, YAMLError) as error:
        reason = f"  {error}"
    else:
        return claims
    raise UserError(f"{CLAIMS} is not a list of claims:\n{reason}\nCorrect it, then: dvc repro")


def _describe(error: Any) -> str:
    number, *where = error["loc"] or ("list",)
    place = f"entry {number + 1}" if isinstance(number, int) else number
    return f"{'.'.join(map(str, [place, *where]))}: {error['msg'].removeprefix('Value error, ')}"


def evaluate_claim(claim: Claim, results: Results) -> dict[str, Any]:
    """Test a claim at the best epochs, as the write-up did; return its entry of ``claims.json``.

    The ``verdict`` is ``supported`` if the interval of every comparison lies on the claimed side,
    ``contradicted`` if one lies on the other side, else ``inconclusive``; where a cell has a single
    run, ``inconclusive`` without intervals, and else without them ``not tested``: both with the
    reason in ``why``. Of each comparison ``effects`` has the ``effect`` in the ``unit``, its
    interval ``low`` and ``high``, the write-up's (``published``), and ``images_needed`` for a
    decision: None if there is one already, or no number would suffice.
    """
    reason = _reason_not_tested(claim, results)
    effects = [] if reason else [_effect(claim, weights, results) for weights in claim.compare]
    claimed = 1 if claim.direction == "above" else -1
    signs = [claimed * estimate.sign for estimate, _ in effects]
    return {
        "id": claim.id,
        "says": claim.says,
        "verdict": VERDICTS[min(signs, default=0)] if signs or reason == ONE_RUN else "not tested",
        "why": reason,
        "unit": _unit(claim),
        "effects": [
            {
                "effect": _in_unit(claim, estimate.value),
                "low": _in_unit(claim, estimate.low),
                "high": _in_unit(claim, estimate.high),
                "published": _in_unit(claim, published),
                "images_needed": None if estimate.sign else estimate.images_needed,
            }
            for estimate, published in effects
        ],
    }


def _unit(claim: Claim) -> str:
    if claim.quantity == "accuracy":
        return "points"
    return f"power of {claim.per}" if claim.per else "times"


def _reason_not_tested(claim: Claim, results: Results) -> str | None:
    """Return why a claim is not tested, the same words for all claims with that reason."""
    params = results.params
    if results.design.folds:
        return "about one split, and these cells were cross-validated"
    if any(cell not in results.cells for cell in claim.cells):
        return "about cells that are not in the matrix"
    replaced = sorted({results.cells[cell].model for cell in claim.cells} & set(params.factories))
    if replaced:
        return f"about torchvision's network, and {', '.join(replaced)} has a factory of its own"
    if results.figures.loc[claim.cells, "diverged"].any():
        return "some of the runs diverged"
    if claim.quantity == "accuracy":
        if params.weights != "imagenet":
            return f"about ImageNet weights, and these are {params.weights}"
        if results.published["summary"].empty:
            return "about other images"
    changed = [cell for cell in claim.cells if not results.stands_for_every_seed(cell)]
    repeated = changed if claim.quantity == "accuracy" else claim.cells
    if (results.figures.loc[repeated, "seeds"] == 1).any():
        return ONE_RUN
    if claim.quantity == "seconds":
        if not results.timed_under_same_conditions(claim.cells):
            return f"the conditions of timing differed ({', '.join(TIMING_CONDITIONS)})"
        if claim.per and not all(_log_cost_ratio(claim, cells, results) for cells in claim.compare):
            return f"the cells have the same {claim.per}"
    return None


def _effect(claim: Claim, weights: Mapping[str, float], results: Results) -> tuple[Estimate, float]:
    """Return a comparison's estimate and the write-up's figure; both are zero for no effect."""
    if claim.quantity == "accuracy":
        published = sum(weight * claim.published[cell] for cell, weight in weights.items())
        largest = sum(weight for weight in weights.values() if weight > 0)
        values = results.weighted_correct(weights, "best")
        prior = results.replicate_prior("best")
        return estimate_difference(values, prior, results.design, largest=largest), published
    estimate = estimate_log_ratio(
        [results.seconds(cell) for cell, weight in weights.items() if weight > 0],
        [results.seconds(cell) for cell, weight in weights.items() if weight < 0],
    )
    published = _log_ratio_of_sums(weights, claim.published)
    costs = _log_cost_ratio(claim, weights, results) if claim.per else 1.0
    low, high = sorted((estimate.low / costs, estimate.high / costs))
    return Estimate(estimate.value / costs, low, high), published / costs


def _in_unit(claim: Claim, figure: float) -> float:
    if claim.quantity == "accuracy":
        return round(100 * figure, 4)
    return round(figure if claim.per else math.exp(figure), 4)


def _log_cost_ratio(claim: Claim, weights: Mapping[str, float], results: Results) -> float:
    return _log_ratio_of_sums(weights, results.figures[claim.per].to_dict())


def _log_ratio_of_sums(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    numerator = sum(values[cell] for cell, weight in weights.items() if weight > 0)
    denominator = sum(values[cell] for cell, weight in weights.items() if weight < 0)
    return math.log(numerator / denominator)
