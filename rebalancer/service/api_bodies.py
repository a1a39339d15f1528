"""What callers of the API may send. Unknown keys are refused: a typo must not be a wish."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rebalancer.service.wording import one_line

# It ends up in other people's terminals and logs.
type Sentence = Annotated[str, Field(max_length=500), AfterValidator(one_line)]
type Person = Annotated[str, Field(max_length=100), AfterValidator(one_line)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PauseBody(_Body):
    """For `/v1/pause`."""

    reason: Sentence = ""
    by: Person = ""
    """Who wants it, as they say."""


class ApproveBody(_Body):
    """For `/v1/plans/{id}/approve`."""

    by: Person = ""


class CancelBody(_Body):
    """For `/v1/cancel`."""

    abort: bool = False
    """Call off running transfers, too, where that is possible."""


class ThrottleBody(_Body):
    """For `/v1/throttle`."""

    at_once: Annotated[int, Field(ge=1, le=100_000)] | None = None
    link_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    off: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.off == (self.at_once is not None or self.link_share is not None):
            raise ValueError("say at_once or link_share or both, or else off")
        return self
