"""The choice of a token among logits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import RunFailed
from testbed.words.sampling import Sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def shares(sampling: Sampling, logits: np.ndarray = LOGITS, draws: int = 4000) -> list[float]:
    """How often each token is drawn over many positions."""
    found = Counter(sampling.draw(logits, position) for position in range(draws))
    return [found[token] / draws for token in range(len(logits))]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    assert shares(Sampling(1)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_low_temperature_is_nearly_greedy_and_a_high_one_nearly_uniform() -> None:
    assert shares(Sampling(1, temperature=0.01))[0] == 1
    assert shares(Sampling(1, temperature=100)) == pytest.approx([0.25] * 4, abs=0.03)


def test_top_k_keeps_the_largest_and_those_equal_to_the_last_of_them() -> None:
    assert shares(Sampling(1, top_k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(Sampling(1, top_k=1), np.array([1, 2, 2, 0], np.float32)) == pytest.approx([0, 0.5, 0.5, 0], abs=0.03)
    assert shares(Sampling(1, top_k=9)) == shares(Sampling(1))


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]
)
def test_top_p_keeps_the_fewest_that_together_are_as_likely(top_p: float, kept: int) -> None:
    assert sum(share > 0 for share in shares(Sampling(1, top_p=top_p))) == kept


def test_top_p_counts_what_temperature_and_top_k_have_left() -> None:
    assert sum(share > 0 for share in shares(Sampling(1, top_k=2, top_p=0.6))) == 1  # 0.5 of 0.8
    assert sum(share > 0 for share in shares(Sampling(1, temperature=10, top_p=0.5))) == 2


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    seed=st.integers(0, 2**53 - 1), position=st.integers(0, 10**6), temperature=st.floats(0.01, 100),
    top_k=st.none() | st.integers(1, 50), top_p=st.floats(0, 1, exclude_min=True),
)  # fmt: skip
def test_a_draw_depends_on_nothing_but_logits_seed_and_position(
    logits: list[float], seed: int, position: int, temperature: float, top_k: int | None, top_p: float
) -> None:
    values = np.array(logits, np.float32)
    sampling = Sampling(seed, temperature, top_k, top_p)
    token = sampling.draw(values, position)
    assert 0 <= token < len(values)
    assert (
        token
        == sampling.draw(values.copy(), position)
        == Sampling(seed, temperature, top_k, top_p).draw(values, position)
    )


def test_another_seed_or_position_draws_others() -> None:
    flat = np.zeros(1000, np.float32)
    drawn = {Sampling(seed).draw(flat, position) for seed in range(10) for position in range(10)}
    assert len(drawn) > 80


def test_the_draws_agree_with_those_of_transformers_about_what_may_be_drawn() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    logits = np.random.default_rng(3).normal(0, 3, 50).astype(np.float32)
    scores = torch.from_numpy(logits)[None]
    for warper in (
        transformers.TemperatureLogitsWarper(1.7), transformers.TopKLogitsWarper(7), transformers.TopPLogitsWarper(0.8),
    ):  # fmt: skip
        scores = warper(None, scores)
    allowed = set(torch.nonzero(torch.isfinite(scores[0])).flatten().tolist())
    wanted = torch.softmax(scores[0], 0).tolist()
    found = shares(Sampling(5, 1.7, 7, 0.8), logits)
    assert {token for token, share in enumerate(found) if share} == allowed
    assert found == pytest.approx(wanted, abs=0.03)


def test_logits_that_are_no_numbers_are_told() -> None:
    with pytest.raises(RunFailed, match="the logits at position 3 are no numbers"):
        Sampling(1).draw(np.array([0, np.nan], np.float32), 3)
