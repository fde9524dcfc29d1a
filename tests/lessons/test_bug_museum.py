"""The bug museum's exhibits are what they claim: each test fails with its bug and passes without."""
import os
import runpy
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

LESSONS = Path(__file__).parents[2] / "lessons"
EXHIBITS = {
    "19_bug_museum_players": ("test_d_loss_does_not_reach_g", "test_a_beaten_generator_still_hears",
                              "test_verdict_on_photographs_does_not_depend_on_made_ones", "test_content_weight_matters"),
    "20_bug_museum_networks": ("test_signal_survives_initialisation", "test_a_restart_brings_back_every_layer",
                               "test_an_average_is_calmer_than_its_values", "test_neighbours_do_not_matter"),
    "21_bug_museum_data": ("test_a_batch_holds_different_pictures", "test_dying_while_saving_leaves_a_whole_file",
                           "test_a_torn_file_is_replaced_by_its_backup", "test_resumed_is_as_never_stopped",
                           "test_an_incomplete_file_is_refused"),
    "22_bug_museum_pictures": ("test_a_little_too_bright_is_still_bright", "test_a_round_trip_changes_nothing",
                               "test_bicubic_is_not_better_than_bicubic", "test_detail_too_fine_vanishes",
                               "test_features_tell_two_pictures_apart"),
}


@cache
def room(name):
    """The lesson's names, after it has run."""
    with mock.patch.dict(os.environ, MPLBACKEND="Agg"), mock.patch.object(sys, "path", [str(LESSONS), *sys.path]):
        import matplotlib
        matplotlib.use("Agg")
        return runpy.run_path(str(LESSONS / f"{name}.py"))


@pytest.mark.parametrize(("name", "exhibit"), [(name, exhibit) for name in EXHIBITS for exhibit in EXHIBITS[name]])
def test_exhibit_fails_with_its_bug_and_passes_without(name, exhibit):
    test = room(name)[exhibit]
    with pytest.raises(AssertionError):
        test(bug=True)
    test(bug=False)


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_listed(name):
    assert {key for key in room(name) if key.startswith("test_")} == set(EXHIBITS[name])


def test_a_test_that_sees_nothing_is_no_exhibit():
    with mock.patch.object(sys, "path", [str(LESSONS), *sys.path]):
        from _museum import exhibit
    with pytest.raises(RuntimeError, match="does not notice"):
        exhibit(lambda bug: None)
    with pytest.raises(AssertionError):
        @exhibit
        def test_fails_always(bug):
            raise AssertionError


def test_a_readers_test_must_tell_the_bug_from_its_absence():
    with mock.patch.object(sys, "path", [str(LESSONS), *sys.path]):
        from _museum import catches
    check = catches(lambda bug: bug)

    def asserts(bug):
        assert not bug

    assert check(asserts) is True and check(lambda bug: not bug) is True
    assert check(lambda bug: None) == check(lambda bug: True) == "the test passes with the bug"
    assert check(lambda bug: False) == "the test fails without the bug"
