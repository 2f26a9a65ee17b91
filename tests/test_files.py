"""A file is whole or absent, whatever happens while it is written."""

import errno
import hashlib
import os
import stat

import pytest

from thrifty import files


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_what_is_written_is_there_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "deep" / "a.txt", "ä\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "ä\n".encode()
    assert left(tmp_path / "deep") == ["a.txt"]


def test_json_is_sorted_and_ends_with_a_line(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    text = (tmp_path / "a.json").read_text()
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("error", [RuntimeError("oh"), KeyboardInterrupt(), OSError("oh")])
def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)), files.written(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a"]


def test_until_the_end_readers_see_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with files.written(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_file_has_the_permissions_that_others_would_have(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_full_disk_is_told_with_the_name_of_the_file_that_was_meant(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(OSError, match="No space left") as caught, files.written(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    assert left(tmp_path) == []


def test_a_folder_that_is_a_file_is_told_with_the_name_that_was_meant(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((FileExistsError, NotADirectoryError)) as caught:
        files.write_text(tmp_path / "file" / "a", "")
    assert caught.value.filename == str(tmp_path / "file" / "a")


def test_errors_about_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.written(tmp_path / "a"):
        (tmp_path / "absent").read_text()
    assert caught.value.filename == str(tmp_path / "absent")


def test_a_digest_is_that_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 9000  # longer than one piece
    (tmp_path / "a").write_bytes(content)
    assert files.digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
