"""The bytes of an input: UTF-8 or an error that says what they are, and gzip, whole or broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from read_records import Written, failure, texts


class TestEncoding:
    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz"])
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
    def test_utf_16_and_32(self, written: Written, name: str, encoding: str) -> None:
        error = failure(written(name, '"text"\n"é"\n'.encode(encoding)))
        assert "line 1: " in str(error)
        assert "wanted UTF-8" in str(error)
        assert "iconv -f UTF-16" in str(error)

    def test_utf_16_without_a_nul(self, written: Written) -> None:
        assert "a UTF-16 byte order mark" in str(failure(written("a.txt", b"\xff\xfe" + "中文".encode("utf-16-le"))))
        assert "a UTF-16 byte order mark" in str(failure(written("a.txt", b"\xfe\xff" + "中文".encode("utf-16-be"))))

    @pytest.mark.parametrize(("name", "first"), [("a.txt", "a"), ("a.csv", "a"), ("a.tsv", "a"), ("a.jsonl", '"a"')])
    @pytest.mark.parametrize("bad", [b"ab\xe9 c", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"])
    def test_not_utf_8(self, written: Written, name: str, first: str, bad: bytes) -> None:
        error = failure(written(name, f"{first}\n\n".encode() + bad + b"\nc\n"))
        assert "line 3: byte 0x" in str(error)
        assert "iconv" in str(error)
        assert error.index == (2 if name == "a.txt" else 1)

    def test_the_position_is_told(self, written: Written) -> None:
        assert "byte 0xe9 at position 3" in str(failure(written("a.txt", b"ab\xe9 c")))

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
    def test_a_nul_in_a_later_line(self, written: Written, name: str) -> None:
        error = failure(written(name, b"a\nb\0\n"))
        assert "line 2: a NUL byte" in str(error)
        assert error.index == 1

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz"])
    def test_a_byte_order_mark_is_dropped(self, written: Written, name: str) -> None:
        assert texts(written(name, b'\xef\xbb\xbf"a"\n')) == ["a" if "csv" in name or "json" in name else '"a"']

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
    def test_only_a_byte_order_mark(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, b"\xef\xbb\xbf")))

    def test_compressed_under_a_plain_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(gzip.compress(b"text\na\n"))
        assert "let the name end in .gz" in str(failure(str(path)))


class TestGzip:
    CONTENT = b"".join(b"%064d\n" % (i * 7919**9) for i in range(20_000))

    def test_cut(self, tmp_path: Path) -> None:
        whole = gzip.compress(self.CONTENT)
        path = tmp_path / "a.txt.gz"
        for size in (5, 12, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            error = failure(str(path))
            assert "broken or cut gzip data" in str(error)
            assert (error.index or 0) == int(str(error).split("line ")[1].split(":")[0]) - 1

    def test_an_impossible_block(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt.gz"
        path.write_bytes(gzip.compress(b"")[:10] + b"\x07" * 20)
        assert "broken or cut gzip data" in str(failure(str(path)))

    def test_changed(self, tmp_path: Path) -> None:
        whole = gzip.compress(self.CONTENT)
        path = tmp_path / "a.txt.gz"
        for position in (0, len(whole) // 2, len(whole) - 6):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
            assert "broken or cut gzip data" in str(failure(str(path)))

    def test_not_gzip(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv.gz"
        path.write_bytes(b"text\na\n")
        assert "broken or cut gzip data" in str(failure(str(path)))

    def test_several_members(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt.gz"
        path.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n"))
        assert texts(str(path)) == ["a", "bc", "d"]
