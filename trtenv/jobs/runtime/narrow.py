"""The types of tensors; those that numpy has not, as bits and as float32. Python 3.6 to 3.13."""

from typing import NamedTuple

import numpy as np


class Type(NamedTuple):
    """Our name of a type, and numpy's for its bytes. Those that numpy lacks cross as float32."""

    name: str
    stored: str


# By TensorRT's names.
TYPES = {
    "FLOAT": Type("float32", "float32"),
    "HALF": Type("float16", "float16"),
    "BF16": Type("bfloat16", "uint16"),
    "FP8": Type("float8_e4m3fn", "uint8"),
    "INT8": Type("int8", "int8"),
    "UINT8": Type("uint8", "uint8"),
    "INT32": Type("int32", "int32"),
    "INT64": Type("int64", "int64"),
    "BOOL": Type("bool", "bool"),
}


def encode_bfloat16(wide, stored):
    """Rounds to nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(wide, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    stored[...] = np.where(np.isnan(wide), 0x7FC0 | (bits >> 16), rounded >> 16)


def decode_bfloat16(stored, wide):
    wide.view(np.uint32)[...] = stored.astype(np.uint32) << 16


def e4m3_values():
    """Of the 256 bytes of FLOAT8E4M3FN: 4 bits of exponent with bias 7, no infinities, one NaN per sign."""
    codes = np.arange(128)
    exponent, fraction = codes >> 3, codes & 7
    normal = (1 + fraction / 8.0) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, fraction / 8.0 * 2.0**-6, normal)
    values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


E4M3 = e4m3_values()


def encode_e4m3(wide, stored):
    """Rounds to nearest, ties to even; what is larger than 448 becomes 448, as TensorRT quantizes."""
    size, known = np.abs(wide), E4M3[:127].astype(np.float64)
    upper = np.clip(np.searchsorted(known, size), 0, 126)
    lower = np.maximum(upper - 1, 0)
    below, above = size - known[lower], known[upper] - size
    up = (above < below) | ((above == below) & (upper % 2 == 0))
    code = np.where(np.isnan(wide), 127, np.where(up, upper, lower))
    stored[...] = code | np.where(np.signbit(wide), 128, 0)


def decode_e4m3(stored, wide):
    wide[...] = E4M3[stored]


# By TensorRT's name: to bits, and back.
CODECS = {
    "BF16": (encode_bfloat16, decode_bfloat16),
    "FP8": (encode_e4m3, decode_e4m3),
}
