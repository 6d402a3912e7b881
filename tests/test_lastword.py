"""What a process did when, and what of it says that a run ended before its plan."""

import pytest

from loadlib.lastword import Course, LastWord, cut_short


def spans(course, now_ns):
    return [(span.phase, span.start_ns, span.end_ns) for span in course.spans(["m"], now_ns)]


def test_a_phase_lasts_until_the_next_and_the_last_until_its_last_answer():
    course = Course()
    assert (course.phase, spans(course, 5), course.latest) == (None, [], ())
    course.open("measure", 10)
    assert spans(course, 30) == [("measure", 10, 30)], "no answer yet"
    course.ended("measure", "m", 12, 20)
    course.open("measure-2", 40)
    assert course.phase == "measure-2"
    assert spans(course, 90) == [("measure", 10, 40), ("measure-2", 40, 40)]
    course.ended("measure-2", "m", 41, 60)
    course.ended("measure", "m", 39, 55)
    course.ended("measure", "n", 11, 13)
    assert spans(course, 90) == [("measure", 10, 40), ("measure-2", 40, 60)]
    found = {(one.phase, one.model): (one.begin_ns, one.end_ns) for one in course.latest}
    assert found == {
        ("measure", "m"): (39, 55),
        ("measure-2", "m"): (41, 60),
        ("measure", "n"): (11, 13),
    }


def word(**said):
    return LastWord(seq=1, **said)


@pytest.mark.parametrize(
    ("words", "expected", "why"),
    [
        ([], False, "nobody said anything"),
        ([word(), word()], False, "both plans were over"),
        ([word(), word(cut=True)], True, "stages end together: the run was stopped"),
        ([word(), word(cut=True, left=True)], False, "that one left; its share is another matter"),
    ],
)
def test_whether_a_run_was_cut_short(words, expected, why):
    assert cut_short(words) is expected, why
