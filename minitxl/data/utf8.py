"""Bytes of UTF-8 that come in blocks to text, with errors that name the byte."""

import codecs
from collections.abc import Iterable, Iterator

from minitxl.errors import MinitxlError


def decoded(name: str, blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of UTF-8 blocks; an error names the byte's place in the whole file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # in the file, of the first byte that the decoder has not yet turned into text
    for block in _then_end(blocks):
        if offset == 0 and block.startswith(codecs.BOM_UTF8):
            block, offset = block[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            bad = error.object[error.start]
            utf16 = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raise MinitxlError(
                f"{name!r} is not UTF-8 text: byte {offset + error.start} is 0x{bad:02x} "
                f"({error.reason}): save it as UTF-8"
                f'{" (it looks like UTF-16)" if utf16 else ""}, or use level="byte" (--level byte)'
            ) from error
        offset += pending + len(block) - len(decoder.getstate()[0])


def _then_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks, then the empty block that tells a decoder to finish."""
    yield from blocks
    yield b""
