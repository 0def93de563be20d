import pytest

from experiments.parts import Parts, write


def test_a_folder_is_a_mapping_of_texts(tmp_path):
    parts = Parts(tmp_path / "parts")
    assert list(parts) == []
    assert "attribute ink k=4 0f" not in parts
    parts["attribute ink k=4 0f"] = "one"
    parts["decoder: image"] = "two"
    parts["decoder: image"] = "three"
    assert Parts(tmp_path / "parts")["attribute ink k=4 0f"] == "one"
    assert parts["decoder: image"] == "three"
    assert len(parts) == 2
    with pytest.raises(KeyError):
        parts["other"]


def test_nothing_is_left_of_an_empty_one(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts["a"] = parts["b/../c"] = "text"
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "parts"}
    # A kill in the middle of writing leaves such a file.
    (tmp_path / "parts" / "d.json.partial").write_text("{")
    parts.clear()
    assert list(tmp_path.iterdir()) == []
    parts.clear()


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "a.json", 3)  # type: ignore[arg-type]
    assert not (tmp_path / "a.json").exists()
