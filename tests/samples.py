"""Words for every option of a build request, taken from the grammar that its own parser holds."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trtenv.dialect.rows import padded
from trtenv.dialect.trtexec import NEWEST, REPEATABLE, flags
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import BY_NAME, OPTIONS, Option
from trtenv.spec.shapes import Shapes, parse_shapes
from trtenv.spec.values import POOLS

TENSORRT = (
    *("7.0", "7.1", "7.2.1", "7.2.3", "8.0", "8.2", "8.4", "8.5", "8.6", "9.0", "9.3"),
    *("10.0", "10.1", "10.4", "10.8", "10.13", "10.16", "11.0", "11.1", "11.4"),
)
RTX = ("1.4", "1.5", "1.6", "1.7")
VERSIONS = tuple(
    [("tensorrt", version) for version in TENSORRT] + [("tensorrt-rtx", version) for version in RTX]
)
# Releases, and builds of them that the catalogue has: a patch is between two rows, or on one.
PATCHES = (
    *("7.0.0.11", "7.1.3", "7.2.1.6", "7.2.2.3", "7.2.3.4", "8.0.1.6", "8.0.3.4", "8.2.0.6"),
    *("8.2.1.8", "8.2.5.1", "8.4.1.5", "8.4.3", "8.5.1.7", "8.5.3.1", "8.6.0.12", "8.6.1.6"),
    *("9.2.0", "10.0.1.6", "10.2.0", "10.3.0.26", "10.9.0.34", "10.13.3.9", "11.4.0.106", "11.5"),
)
EVERY = (*VERSIONS, *(("tensorrt", patch) for patch in PATCHES), ("tensorrt-rtx", "1.7.1.116"))
PROFILE = parse_shapes("image:1x3x224x224..8x3x224x224..16x3x224x224")
OTHER_PROFILE = parse_shapes("image:1x3x512x512..4x3x512x512")
# Of parsers that are no closures over their words. Files exist on every machine that runs tests.
TEXTS = {
    "io_formats": ("fp16:chw", "fp32:chw+chw4,int8:chw32"),
    "names": ("conv1,head", "Conv_0"),
    "layer_types": ("conv1:fp16,split:fp16+fp32", "conv1:fp16,fc:fp32"),
    "layer_devices": ("conv1:DLA,*:GPU",),
    "data": (__file__,),
    "file": (__file__,),
    "output": ("layers.json",),
    "cache": ("auto", "none", "some.cache"),
    "number": ("3", "0.5"),
    "numbers": ("0.5",),
    "percentiles": ("99", "90,95,99"),
    "parse_size": ("1024", "4G", "512K"),
    "pools": tuple(f"{pool}:{size}" for pool in POOLS for size in ("1024", "2G")),
    "compute_capabilities": ("8.6,8.9", "75"),
}


# One library each: trtexec reads these again and again in every version.
PLUGINS = ("--plugins", "--staticPlugins", "--dynamicPlugins", "--setPluginsToSerialize")
# What an option makes sense with alone.
COMPANIONS: Mapping[str, Mapping[str, Any]] = {
    "calibration": {"precision": "int8"},
    "quantization": {"calibration": __file__, "precision": "int8"},
    "keep_fp32": {"precision": "fp16"},
    "layer_precisions": {"precision": "fp16"},
    "layer_output_types": {"precision": "fp16"},
    "allow_gpu_fallback": {"use_dla_core": 0},
    "exclude_lean_runtime": {"version_compatible": True},
}


def grammar(option: Option) -> tuple[str, Mapping[str, Any]]:
    """The name of the parser's maker, and what the parser was made of."""
    assert option.parse
    maker = option.parse.__qualname__.partition(".")[0]
    return maker, inspect.getclosurevars(option.parse).nonlocals


def words(option: Option) -> tuple[str, ...]:
    """The choices, or the members, that this option's parser knows."""
    maker, held = grammar(option)
    if maker == "switches":
        held = inspect.getclosurevars(held["canonical"]).nonlocals
    return tuple(held["by_lower"].values())


def texts(option: Option) -> Iterable[str]:
    maker, held = grammar(option)
    if maker == "choice":
        return words(option)
    if maker == "switches":
        return [sign + word for word in words(option) for sign in "+-"]
    if maker == "integer":
        return [str(held["low"]), str(held["high"] if held["high"] is not None else 1000)]
    return TEXTS[maker]


def values(option: Option) -> Iterable[Any]:
    if option.parse is None:
        return (True, False) if option.off else (True,)
    return [option.read([text] if option.many else text) for text in texts(option)]


def spec(
    given: str = "", *, profiles: tuple[Shapes, ...] = (), builder: str = "auto", **more: Any
) -> BuildSpec:
    """From flags as they are typed: `--precision fp16 --workspace 4G`."""
    wishes: dict[str, Any] = {}
    for flag in filter(None, (part.strip() for part in f" {given}".split(" --"))):
        name, _, text = flag.partition(" ")
        option = BY_NAME[name.removeprefix("no-").replace("-", "_")]
        if option.parse is None:
            wishes[option.name] = not name.startswith("no-")
        else:
            wishes[option.name] = option.read(text.split() if option.many else text)
    return BuildSpec(profiles=profiles, wishes=wishes, builder=builder, **more).check()


def single_wishes() -> Iterable[BuildSpec]:
    """One specification for each value of each option whose meaning depends on the version."""
    yield BuildSpec()
    yield BuildSpec(profiles=(PROFILE,))
    yield BuildSpec(profiles=(PROFILE, OTHER_PROFILE))
    for option in OPTIONS:
        for value in values(option) if option.dialect else ():
            wishes = {**COMPANIONS.get(option.name, {}), option.name: value}
            yield BuildSpec(wishes=wishes).check()


def check_known(said: Sequence[str], version: str) -> None:
    """To this version, by the table of trtexec's flags: unknown and repeated ones end it."""
    number = min(padded(version), (*NEWEST, 999))
    names = [text.partition("=")[0] for text in said]
    for name, text in zip(names, said, strict=True):
        assert name in flags(), text
        assert flags()[name].known_to(number), f"{text} in {version}"
        assert not text.endswith("=")
        assert "@" not in text, text  # a form that was not filled
        if name in ("--tacticSources", "--preview") and "=" in text:
            assert re.fullmatch(r"--\w+=[+-]\w+(,[+-]\w+)*", text)
    once = [name for name in names if name not in (*REPEATABLE, *PLUGINS)]
    assert len(once) == len(set(once)), said
