"""The judgement of the soak notices growth, and its turn repeats itself."""

import mmap
import random

import pytest

import soak
from soak import Measured, problems

TURNS, SECONDS = 200, 6.0  # twenty minutes


def series(growth: float = 0.0, handles=lambda turn: 5, digest=lambda turn: "same", seed: int = 0) -> list[Measured]:
    """Turns whose memory rises by 50 MB in the warm-up, and by ``growth`` MB in a minute throughout; with noise."""
    rng = random.Random(seed)
    return [
        Measured(
            SECONDS * turn,
            600 + 50 * min(1.0, turn / 40) + growth * SECONDS * turn / 60 + rng.uniform(-2, 2),
            handles(turn),
            digest(turn),
        )
        for turn in range(TURNS)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_level_memory_is_no_problem_whatever_the_warm_up_took(seed):
    assert problems(series(seed=seed)) == []
    assert problems(series(growth=-3.0, seed=seed)) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_noticed_above_one_megabyte_in_a_minute(seed):
    assert problems(series(growth=0.9, seed=seed)) == []
    (problem,) = problems(series(growth=1.1, seed=seed))
    assert problem.startswith("memory: it grows by 1.")


def test_the_slope_is_in_megabytes_in_a_minute():
    line = [Measured(30.0 * turn, 100 + 1.25 * turn, 5, "same") for turn in range(10)]
    assert soak.slope(line) == pytest.approx(2.5)


def test_the_warm_up_is_the_first_quarter_of_the_time():
    turns = [Measured(seconds, 100.0, 5, "same") for seconds in (10.0, 20.0, 25.0, 60.0, 110.0)]
    assert [each.seconds for each in soak.after_warm_up(turns)] == [60.0, 110.0]


@pytest.mark.parametrize("every", [1, 7, 60])
def test_files_that_stay_open_are_noticed(every):
    (problem,) = problems(series(handles=lambda turn: 5 + turn // every))
    assert problem.startswith("open files: ")


def test_files_that_are_closed_again_are_no_problem():
    assert problems(series(handles=lambda turn: 5 + turn % 3)) == []


@pytest.mark.parametrize("turn", [1, 40, TURNS - 1])
def test_one_turn_with_other_numbers_is_noticed(turn):
    (problem,) = problems(series(digest=lambda at: "other" if at == turn else "same"))
    assert problem == f"numbers: those of 1 turns are not those of the first, as of turn {turn + 1}"


def test_few_turns_are_not_judged():
    (problem,) = problems(series()[: soak.FEWEST - 1])
    assert problem.startswith("turns: 7 are too few")


def test_a_real_leak_of_memory_is_measured():
    before = soak.memory()
    with mmap.mmap(-1, 40 << 20) as kept:  # a heap that has room already would not grow
        kept.write(b"x" * (40 << 20))
        assert soak.memory() - before > 30


def test_a_file_that_stays_open_is_measured(tmp_path):
    before = soak.handles()
    with (tmp_path / "open").open("w"):
        assert soak.handles() == before + 1


def test_a_turn_repeats_itself_and_depends_on_its_seed(tmp_path):
    digests = [soak.turn(tmp_path / str(number), seed) for number, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]
