import pytest

from metarec.errors import ConfigError
from metarec.meta.registry import LEARNERS, make_learner
from metarec.models.registry import MODELS


def test_unknown_learners_are_named() -> None:
    with pytest.raises(ConfigError, match="learner 'oracle' is unknown; use one of alpaca"):
        make_learner("oracle")


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_learners_know_their_name_and_a_model_that_exists(name: str) -> None:
    learner = make_learner(name)
    assert learner.name == name
    assert learner.default_model in MODELS
