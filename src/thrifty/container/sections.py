"""Bytes made smaller with zstd where that helps, and back, with the size known beforehand.

A section as long as what it unpacks to is stored as it is; a shorter one is a single zstd frame
that says its content size.  Nothing else says which it is.
"""

import zstandard

from thrifty.container.header import Section
from thrifty.errors import UserError

MOST_WINDOW = 1 << 27
"""Bytes that a frame may look back, as the command ``zstd -d`` allows at most."""

LEAST = 8
"""Bytes that no frame shortens."""
SMALL = 1 << 17
"""Bytes up to which the slowest level is tried."""
QUICK, SLOWEST = 1, 19


def packed(raw: bytes) -> tuple[Section, bytes]:
    """The shortest of ``raw`` as it is and compressed in several ways.

    Bytes of planes look drawn by lot and repeat nothing: what counts is that each is coded in few
    bits and that no accidental match is taken.  The parameters for long sections do that as well
    as level 19, at 11 times its speed; levels between take matches, are 18 % longer on exponents
    and unpack at 0.8 GB/s instead of 2.  What level 1 does not shorten, no level does.
    """
    tries = [raw]
    if len(raw) > LEAST:
        tries.append(zstandard.ZstdCompressor(level=QUICK).compress(raw))
    if len(raw) > SMALL and len(tries[-1]) < len(raw):
        tries.append(zstandard.ZstdCompressor(compression_params=_LITERALS).compress(raw))
    elif LEAST < len(raw) <= SMALL:
        tries.append(zstandard.ZstdCompressor(level=SLOWEST).compress(raw))
    best = min(tries, key=len)
    return Section(len(best), len(raw)), best


def unpacked(content: bytes, raw: int) -> bytes:
    """What a section of the file unpacks to.

    Args:
        content: the section.
        raw: bytes that it must unpack to.

    Raises:
        UserError: it is no single frame of that content; the caller names the tensor.
    """
    if len(content) == raw:
        return content
    try:
        frame = zstandard.get_frame_parameters(content)
        if frame.content_size != raw:
            raise UserError(f"a section says that it unpacks to {raw:,} bytes and its frame not")
        if frame.window_size > max(MOST_WINDOW, raw) or frame.dict_id:
            raise UserError("a section needs a dictionary, or too much memory to be unpacked")
        found = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise UserError(f"a section is no whole zstd frame ({error})") from None
    if len(found) != raw:
        raise UserError(f"a section unpacks to {len(found):,} bytes, not {raw:,}")
    return bytes(found)


_LITERALS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_BTULTRA2,
    min_match=6,
    window_log=17,
    hash_log=13,
    chain_log=13,
    search_log=1,
    target_length=16,
)
