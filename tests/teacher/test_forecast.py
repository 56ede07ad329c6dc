"""From timed answers to a range: exact where all samples are alike, and true to its 95 % where they are not."""

import random

import pytest

from pipeline.teacher.forecast import Timed, end_seconds, mean_of, seconds_each, share_of, speed


def waves(count: int, level: int, seconds: float = 10.0, tokens: int = 100) -> list[Timed]:
    """`count` equal answers, `level` of them always in flight."""
    starts = [number // level * seconds for number in range(count)]
    return [Timed(start, start + seconds, tokens) for start in starts]


def test_equal_samples_give_one_exact_figure() -> None:
    answers = waves(64, 16)
    found = speed(answers)
    assert (found.tokens_per_second, found.in_flight) == pytest.approx((160.0, 16.0))
    assert found.left_out == pytest.approx(5.0) and found.seconds == pytest.approx(35.0)
    assert seconds_each(answers, 1) == pytest.approx((10 / 16, 10 / 16, 10 / 16))


def test_the_slow_start_and_the_thin_end_do_not_count() -> None:
    slow = [Timed(0.0, 4.0, 1)] * 8  # an engine that compiles: 1 token in 4 s, then 100 in 10 s
    steady = [Timed(4.0 + 10 * wave, 14.0 + 10 * wave, 100) for wave in range(3) for _ in range(8)]
    last = [Timed(34.0, 134.0, 1000)]  # one long answer alone at the end
    found = speed([*slow, *steady, *last])
    assert found.tokens_per_second == pytest.approx(80.0, rel=0.03) and found.in_flight == pytest.approx(8.0, rel=0.03)
    assert found.left_out == pytest.approx(5.0)


def test_failures_take_no_tokens_but_are_samples() -> None:
    whole = seconds_each(waves(64, 16), 1).value
    failed = [Timed(5.0, 5.0, 0)] * 64
    assert seconds_each([*waves(64, 16), *failed], 1).value == pytest.approx(whole / 2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    held = 0
    for trial in range(60):
        lengths = [rng.lognormvariate(6, 0.7) for _ in range(64)]
        answers = [Timed(0.0, length / 20, int(length)) for length in lengths]  # 20 tokens a second each, all at once
        truth = 2.718281828 ** (6 + 0.7**2 / 2) / 20  # seconds of a request, by the distribution's own mean
        each = seconds_each(answers, trial)
        level = speed(answers).in_flight
        held += each.low <= truth / level <= each.high
    assert held >= 51


def test_shares_and_means_have_honest_ends() -> None:
    assert share_of(0, 64) == pytest.approx((0.0, 0.0, 0.0566), abs=1e-4)
    assert share_of(64, 64) == pytest.approx((1.0, 0.9434, 1.0), abs=1e-4)
    assert share_of(8, 64) == pytest.approx((0.125, 0.0647, 0.2277), abs=1e-4)
    assert mean_of([7.0] * 5, 1) == (7.0, 7.0, 7.0)
    low, high = mean_of([float(number) for number in range(100)], 1)[1:]
    assert 43 < low < 46 and 53 < high < 56


def batched(lengths: list[int], level: int, step: tuple[float, float], prefill: float) -> list[Timed]:
    """An engine that batches without pause: a step takes a + b x running seconds and makes a token for each; a prompt's
    `prefill` seconds hold up everybody. At most `level` requests are in flight."""
    waiting, running, out = list(enumerate(lengths))[::-1], dict[int, tuple[float, int]](), []
    now = 0.0
    while waiting or running:
        began = now
        while waiting and len(running) < level:
            number, length = waiting.pop()
            running[number] = (began, length)
            now += prefill
        now += step[0] + step[1] * len(running)
        for number, (start, left) in list(running.items()):
            running[number] = (start, left - 1)
            if left == 1:
                out.append(Timed(start, now, lengths[number]))
                del running[number]
    return out


@pytest.mark.parametrize(
    ("step", "prefill"), [((0.005, 0.00005), 0.016), ((0.025, 0.0002), 0.1)], ids=["small model", "large model"]
)
def test_64_samples_foretell_an_engine_that_batches(step: tuple[float, float], prefill: float) -> None:
    rng = random.Random(11)
    every = [max(1, int(rng.lognormvariate(5.5, 0.6))) for _ in range(1600)]
    ends = sorted(answer.ended for answer in batched(every, 64, step, prefill))
    truth = (ends[1300] - ends[300]) / 1000
    ranges = [seconds_each(batched(rng.sample(every, 64), 64, step, prefill), trial) for trial in range(20)]
    assert sum(found.value for found in ranges) / 20 == pytest.approx(truth, rel=0.1)
    assert sum(found.low <= truth <= found.high for found in ranges) >= 16


def test_the_thin_end_of_a_small_run_is_reckoned_with() -> None:
    rng = random.Random(5)
    lengths = [max(1, int(rng.lognormvariate(5.5, 0.6))) for _ in range(400)]
    orders = [rng.sample(lengths, 400) for _ in range(10)]
    whole = sum(max(answer.ended for answer in batched(order, 64, (0.005, 0.00005), 0.002)) for order in orders) / 10
    samples = [batched(rng.sample(lengths, 64), 64, (0.005, 0.00005), 0.002) for _ in range(10)]
    said = sum(seconds_each(timed, 1).value * 400 + end_seconds(timed) for timed in samples) / 10
    without = sum(seconds_each(timed, 1).value * 400 for timed in samples) / 10
    assert said == pytest.approx(whole, rel=0.12) and without < 0.85 * whole
    assert end_seconds(waves(64, 16)) == pytest.approx(5.0)
