import pytest

from s2l_jax.core.plan import PageCopy
from s2l_jax.core.records import Records, fields_of

COPIES = (PageCopy(1, 2), PageCopy(3, 4), PageCopy(5, 6))


@pytest.fixture
def records():
    return Records(PageCopy, [tuple(copy) for copy in COPIES])


def test_records_are_the_named_tuples_that_their_fields_make(records):
    assert (len(records), list(records), records[1], records[-2:]) == (3, [*COPIES], COPIES[1], COPIES[1:])
    assert records[0].target == 2
    assert records == COPIES == records
    assert records != COPIES[:2]
    assert (hash(records), repr(records)) == (hash(COPIES), repr(COPIES))
    assert not Records(PageCopy, [])


def test_named_tuples_are_made_once_and_not_before_somebody_looks(records):
    assert [target for _, target in fields_of(records)] == [2, 4, 6]
    assert all(type(fields) is tuple for fields in fields_of(records))
    assert records[0] is next(iter(records))


def test_fields_of_other_sequences_are_those_of_their_elements():
    assert list(fields_of(COPIES)) == [*COPIES]
