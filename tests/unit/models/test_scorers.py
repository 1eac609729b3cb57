import pytest
import torch

from metarec.errors import ConfigError
from metarec.models.linear_gaussian import LinearGaussian, unique_rows
from metarec.models.melu import Melu, embed_fields
from metarec.models.registry import MODELS, make_model, model_settings
from metarec.tasks.planted import linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_settings_survive_the_registry(name: str) -> None:
    model = make_model(name, {"embedding_dim": 7})
    assert make_model(name, model_settings(model)) == model
    with pytest.raises(ConfigError, match="'depth' of model"):
        make_model(name, {"depth": 2})
    with pytest.raises(ConfigError, match="embedding_dim is 0"):
        make_model(name, {"embedding_dim": 0})


def test_unknown_models_are_named() -> None:
    with pytest.raises(ConfigError, match="model 'gpt' is unknown"):
        make_model("gpt")


@pytest.mark.parametrize("model", [LinearGaussian(embedding_dim=4), Melu(embedding_dim=4), Melu(embedding_dim=4, use_ids=False)])
def test_hidden_ids_score_like_unknown_entities(model: LinearGaussian | Melu) -> None:
    family = linear_family(num_tasks=6, num_rows=9, rows_per_task=6)
    batch = next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(), 0).epoch(0)).query
    theta = {k: v + 0.1 * torch.randn(v.shape, generator=generator(1)) for k, v in model.init(family.tables, generator()).items()}
    if "row.id" in theta:
        theta["row.id"][0] = 0
    fast = model.initial(theta, batch)
    hidden = model.forward(fast, model.inputs(theta, batch, torch.zeros(9, dtype=torch.bool)))
    shown = model.forward(fast, model.inputs(theta, batch, torch.ones(9, dtype=torch.bool)))
    torch.testing.assert_close(shown, model.score(theta, {}, batch))
    assert bool((hidden != shown).any()) == getattr(model, "use_ids", True)


def test_distinct_rows_are_mapped_once() -> None:
    unique_N, at_TN = unique_rows(torch.tensor([[4, 1], [1, 7]]), 9)
    assert unique_N.tolist() == [1, 4, 7]
    assert at_TN.tolist() == [[1, 0], [0, 2]]


def test_each_field_has_its_own_embedding() -> None:
    dense = torch.tensor([[1.0, 0.0, 2.0]])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert embed_fields(dense, weight, (("a", 0, 2), ("b", 2, 3))).tolist() == [[1, 2, 10, 12]]
