"""Reading what a user names: each odd thing a path can be is one sentence, soon."""

import os
import resource

import pytest
from refusals import computed_within, refusal

from testbed.errors import ConfigError, EnvironmentLacks
from testbed.files import read_bytes, read_text, write_text
from testbed.strict_yaml import shown


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: x\r\n")
    assert read_text(file) == "name: x\r\n"


def test_a_file_is_written_into_a_folder_that_is_made_unless_a_file_is_in_its_way(tmp_path):
    write_text(tmp_path / "none" / "yet" / "x.md", "# X\n")
    assert (tmp_path / "none" / "yet" / "x.md").read_text() == "# X\n"
    below = tmp_path / "none" / "yet" / "x.md" / "below" / "y.md"
    assert "x.md" in refusal(lambda: write_text(below, ""))


@pytest.mark.parametrize("name", ["/dev/zero", "/dev", "x" * 300, "a\0b"])
def test_what_is_not_a_file_is_one_sentence_within_a_second(name):
    with computed_within(1):
        assert len(refusal(lambda: read_text(name))) < 300


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="it is a pipe, not a file"):
        read_bytes(tmp_path / "pipe")


def test_a_file_larger_than_its_limit_is_refused(tmp_path):
    file = tmp_path / "big"
    file.write_bytes(b"x" * 11)
    with pytest.raises(ConfigError, match="too large"):
        read_bytes(file, 10)
    assert len(read_bytes(file, 11)) == 11


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    file = tmp_path / "latin"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"latin.*not UTF-8"):
        read_text(file)


def test_a_value_is_shown_short_whatever_it_is():
    shared = "x"
    for _ in range(60):  # as YAML aliases make it: 2**60 leaves
        shared = [shared, shared]
    for value in (shared, 10**5000, {"a": shared}, "y" * 10**6):
        with computed_within(1):
            assert len(shown(value)) <= 60


def test_half_of_a_new_file_does_not_stay_on_a_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(EnvironmentLacks, match="r.md: the file cannot be written"):
            write_text(tmp_path / "r.md", "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
