"""The level of one endpoint, fed with what servers say."""

import time

from pipeline.engine.level import FIRST, MOST, MOST_UNTOLD, Level, Load, load_of


def told(level: Level, running: float, waiting: float, preemptions: float = 0, in_flight: int | None = None) -> int:
    level.told(Load(running, waiting, preemptions, 1.0), level.value if in_flight is None else in_flight)
    return level.value


def test_it_doubles_while_nothing_waits_and_never_exceeds_its_bound() -> None:
    level = Level(300)
    assert [level.value, *(told(level, level.value, 0) for _ in range(4))] == [64, 128, 256, 300, 300]
    assert not level.is_rising
    level = Level("auto")
    for _ in range(10):
        told(level, level.value, 0)
    assert level.value == MOST
    assert Level(5).value == 5


def test_counts_that_stand_still_are_believed_late() -> None:
    level = Level("auto")
    assert [told(level, 0, 0) for _ in range(7)] == [128, 128, 128, 128, 128, 256, 256]
    assert told(level, 256, 0) == 512


def test_it_does_not_grow_when_its_places_are_not_taken() -> None:
    level = Level("auto")
    assert told(level, 10, 0, in_flight=10) == FIRST


def test_a_small_queue_holds_it_and_a_standing_one_takes_the_surplus_back_once() -> None:
    level = Level("auto")
    assert told(level, 60, 4) == 64
    assert [told(level, 40, 24) for _ in range(4)] == [64, 64, 45, 45]  # the least of three queues: 4, then 24
    assert told(level, 40, 5) == 45
    assert told(level, 45, 0) == 47  # from now on by steps


def test_a_standing_queue_is_shared_with_other_clients() -> None:
    level = Level("auto")
    for _ in range(3):
        told(level, 80, 48, in_flight=64)  # half of 128 are ours: 19 of the 38 beyond a small queue
    assert level.value == 45


def test_preemptions_cut_it_once_until_the_cut_has_come_through() -> None:
    level = Level("auto")
    told(level, 64, 0)
    assert level.value == 128
    assert told(level, 120, 0, preemptions=3) == 102
    assert told(level, 120, 0, preemptions=9, in_flight=120) == 102
    assert told(level, 90, 0, preemptions=9) == 102  # a turn of answers first
    for _ in range(102):
        level.answered(102)
    assert told(level, 102, 0, preemptions=9) == 108


def test_counters_of_another_process_are_no_preemptions() -> None:
    level = Level("auto")
    level.told(Load(64, 1, 0, 1.0), 64)
    level.told(Load(64, 1, 50, 2.0), 64)
    assert level.value == FIRST


def test_without_counts_it_rises_by_turns_and_halves_once_for_all_that_were_out() -> None:
    level = Level("auto")
    for _ in range(64):
        level.answered(64)
    assert level.value == 128
    sent = time.monotonic()
    for _ in range(5):
        level.refused(sent)
    assert level.value == 64
    level.refused(time.monotonic())
    assert level.value == 32
    for _ in range(32):
        level.answered(32)
    assert level.value == 34
    for _ in range(100_000):
        level.answered(level.value)
    assert level.value == MOST_UNTOLD


def test_load_wants_both_counts() -> None:
    counts = {"vllm:num_requests_running": 3.0, "vllm:num_requests_waiting": 1.0}
    assert load_of(counts) == Load(3.0, 1.0, 0.0, 0.0)
    assert load_of({"vllm:num_requests_running": 3.0}) is None and load_of({}) is None
