"""The smallest valid image and sound, for tools and prompts that return media."""

import base64
import struct
import zlib


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# One red pixel: 8 bits a channel, RGB, no interlacing; the scanline opens with its filter, 0.
PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    + _png_chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
    + _png_chunk(b"IEND", b"")
)

# One silent sample: PCM, mono, 8 kHz, 8 bits. The odd byte of data is padded.
WAV = (
    b"RIFF"
    + struct.pack("<I", 38)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    + b"data"
    + struct.pack("<I", 1)
    + b"\x80\x00"
)

PNG_BASE64 = base64.b64encode(PNG).decode()
WAV_BASE64 = base64.b64encode(WAV).decode()
