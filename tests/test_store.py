"""Folders that are complete or absent."""

import pytest

from kd_lib import store


def make(folder, **content):
    store.publish(folder.with_suffix(".work"), folder, {k: v.encode() for k, v in content.items()}, colour="red")


def test_published_folders_verify_and_keep_their_facts(tmp_path):
    make(tmp_path / "a", x="1", y="2")
    manifest = store.verify(tmp_path / "a")
    assert manifest["colour"] == "red"
    assert set(manifest["files"]) == {"x", "y"}
    assert store.verify(tmp_path / "b") is None


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_one_flipped_bit_is_named(tmp_path, bit):
    make(tmp_path / "a", x="content", y="2")
    raw = bytearray((tmp_path / "a" / "x").read_bytes())
    raw[4] ^= 1 << bit
    (tmp_path / "a" / "x").write_bytes(raw)
    with pytest.raises(store.Damaged, match=": x differ"):
        store.verify(tmp_path / "a")


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b'{"files": {"gone": "00"}}'])
def test_a_broken_manifest_or_a_missing_file_is_damage(tmp_path, manifest):
    make(tmp_path / "a", x="1")
    path = tmp_path / "a" / store.MANIFEST
    path.unlink() if manifest is None else path.write_bytes(manifest)
    with pytest.raises(store.Damaged):
        store.verify(tmp_path / "a")


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path):
    make(tmp_path / "a", x="1")
    path = tmp_path / "a" / store.MANIFEST
    whole = path.read_bytes()
    for place in range(len(whole)):
        raw = bytearray(whole)
        raw[place] ^= 1
        path.write_bytes(raw)
        if raw.split() != whole.split():  # white space between its parts means nothing
            with pytest.raises(store.Damaged):
                store.verify(tmp_path / "a")


def test_damage_is_moved_aside_and_never_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "store"))
    for attempt in range(2):
        make(tmp_path / "a", x="1")
        (tmp_path / "a" / "x").write_text("other")
        with pytest.warns(UserWarning, match="x differ"):
            assert store.verify_or_quarantine(tmp_path / "a") is None
        assert (tmp_path / "store" / "quarantine" / f"a-{attempt}" / "x").read_text() == "other"
        assert not (tmp_path / "a").exists()


def test_an_atomic_write_leaves_nothing_beside_it(tmp_path):
    store.write_atomic(tmp_path / "deep" / "file", b"one")
    store.write_atomic(tmp_path / "deep" / "file", b"two")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
