import pytest

from cost_profiles.catalog import find_profile, stored_names, write_profile
from s2l_jax.core.errors import InvalidArgument


def test_stored_profiles_are_found_by_their_own_name():
    assert stored_names() == sorted(stored_names())
    for name in stored_names():
        assert find_profile(name).name == name


def test_a_file_is_found_by_its_path(tmp_path):
    profile = find_profile("a40-llama3.1-8b")
    path = tmp_path / "new" / "mine.json"
    write_profile(path, profile)
    assert find_profile(str(path)) == profile


def test_an_unknown_name_is_an_error_that_says_what_there_is():
    with pytest.raises(InvalidArgument, match=r"no profile 'h900'.*a40-llama3\.1-8b, .*v7x-2-llama3\.1-8b"):
        find_profile("h900")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"mine\.json: .*No such file"),
        (b"\xff", r"mine\.json: .*expected the file of a profile"),
        (b"{", r"mine\.json: not JSON"),
        (b"{}", r"mine\.json: expected a profile"),
        (b'{"s2l_profile": 3}', r"mine\.json: name is missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=message):
        find_profile(str(path))
