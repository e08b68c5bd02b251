"""Adds images from tools/facts/images.csv to images/*.toml.

The TOML is what people read and edit, and what trtenv loads. The CSV is how the facts were
collected: a row a tag. So this script only ever ADDS the environments whose names the TOML does
not have yet; it changes no line that is there.

    python tools/catalogue.py            add what is missing
    python tools/catalogue.py --check    change nothing; list what is missing or differs, exit 1

To add a release: append its rows to the CSV, run the script, read the diff.
To correct a fact: edit the TOML, and its `source` with it. `--check` will list the difference;
mend the CSV too if the CSV was wrong, leave it if the TOML knows better.

images/wheels.toml is written by hand: wheels have requirements, not tags.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from trtenv.catalog.model import name_key

ROOT: Final = Path(__file__).resolve().parent.parent
FACTS: Final = ROOT / "tools" / "facts" / "images.csv"
IMAGES: Final = ROOT / "images"

Row = dict[str, str]
Value = str | bool | list[str]
Entry = dict[str, Value]

# Repository -> TOML file and the prefix of its environments' names.
FAMILIES: Final[dict[str, tuple[str, str]]] = {
    "nvcr.io/nvidia/pytorch": ("ngc-pytorch", "ngc-pytorch"),
    "nvcr.io/nvidia/tensorrt": ("ngc-tensorrt", "ngc-tensorrt"),
    "nvcr.io/nvidia/tensorrtserver": ("ngc-tritonserver", "ngc-tensorrtserver"),
    "nvcr.io/nvidia/tritonserver": ("ngc-tritonserver", "ngc-tritonserver"),
    "nvcr.io/nvidia/l4t-tensorrt": ("l4t", "l4t-tensorrt"),
    "nvcr.io/nvidia/l4t-jetpack": ("l4t", "l4t-jetpack"),
    "nvcr.io/nvidia/l4t-pytorch": ("l4t", "l4t-pytorch"),
    "nvcr.io/nvidia/l4t-ml": ("l4t", "l4t-ml"),
    "dustynv/l4t-pytorch": ("dustynv", "dustynv-l4t-pytorch"),
    "dustynv/l4t-ml": ("dustynv", "dustynv-l4t-ml"),
    "dustynv/tensorrt": ("dustynv", "dustynv-tensorrt"),
    "ultralytics/ultralytics": ("ultralytics", "ultralytics"),
    "ultralytics/yolov5": ("ultralytics", "ultralytics-yolov5"),
}
# NVIDIA's, dusty-nv's and Ultralytics' images with torch all have torchvision beside it.
TORCH: Final = ("torch", "torchvision")
# Defaults written once, at the top of a new file: what a row of that file need not repeat.
DEFAULTS: Final[dict[str, Entry]] = {
    "ngc-pytorch": {"holds": ["tensorrt", *TORCH], "arch": ["x86_64"]},
    "ngc-tensorrt": {"holds": ["tensorrt"], "arch": ["x86_64"]},
    "ngc-tritonserver": {"holds": ["tensorrt"], "arch": ["x86_64"], "serving": True},
    "l4t": {"holds": ["tensorrt"], "arch": ["aarch64"]},
    "dustynv": {"holds": ["tensorrt", *TORCH], "arch": ["aarch64"]},
    "ultralytics": {"holds": ["tensorrt", *TORCH, "ultralytics"], "arch": ["x86_64"]},
}
COMMENTS: Final[dict[str, str]] = {
    "ngc-pytorch": "NVIDIA's PyTorch images: torch and TensorRT built to match each other.",
    "ngc-tensorrt": "NVIDIA's TensorRT images: TensorRT, its samples and trtexec; no torch.",
    "ngc-tritonserver": (
        "NVIDIA's inference server. It has libnvinfer; whether it has TensorRT's Python bindings\n"
        "# is not known, so nothing is built in it unless it is named."
    ),
    "l4t": "NVIDIA's images for Jetson. Up to JetPack 4 (r32) TensorRT is mounted from the host.",
    "dustynv": "dusty-nv's jetson-containers as published on the Hub.",
    "ultralytics": "What Ultralytics publishes. Most of its tags move; those rows say what was in them.",
}
# What a row holds where its file's default is wrong.
HOLDS: Final[dict[str, list[str]]] = {
    "nvcr.io/nvidia/l4t-pytorch": ["tensorrt", *TORCH],
    "nvcr.io/nvidia/l4t-ml": ["tensorrt", *TORCH],
    "dustynv/tensorrt": ["tensorrt"],
}
# NGC publishes for aarch64 too, but only these are known from a source: Ultralytics builds its
# arm64 image from them (docker/Dockerfile-nvidia-arm64@1b11276e, pull 26115).
ALSO_AARCH64: Final = ("nvcr.io/nvidia/pytorch:25.10-py3", "nvcr.io/nvidia/pytorch:26.08-py3")
MOVING: Final = "a moving tag: only a digest or a version tag names this image"

# TOML key -> CSV column, in the order in which a row is written.
COLUMNS: Final[dict[str, str]] = {
    "tensorrt": "tensorrt_version",
    "cuda": "cuda_version",
    "cudnn": "cudnn_version",
    "torch": "pytorch_version",
    "python": "python_version",
    "ubuntu": "ubuntu_version",
    "driver": "min_driver",
    "driver_alternatives": "datacenter_driver_alternatives",
    "compute_capabilities": "supported_compute_capabilities",
    "jetpack": "jetpack_version",
    "l4t": "l4t_version",
    "base": "base_image",
    "source": "source",
    "confidence": "confidence",
}
VERSIONS: Final = ("tensorrt", "cuda", "cudnn", "torch", "driver", "jetpack")
WINDOW: Final = re.compile(r"(\d{4}-\d\d(?:-\d\d)?)?\.\.(\d{4}-\d\d(?:-\d\d)?)?")


def environment_name(image: str, tag: str) -> str:
    """Prefix of the repository, then the tag, less what says nothing.

    Dropped: `-py3`, `-python`, `-runtime`, and the v or r before a number. A moving tag is named by
    the day it came to mean this image (`until-` the day it ceased, where only that is known).
    """
    prefix = FAMILIES[image][1]
    moving, _, when = tag.partition(" ")
    parts = moving.split("-") if when else tag.split("-")
    kept = [
        re.sub(r"^[rv](?=\d)", "", part)
        for part in parts
        if part not in ("py3", "python", "runtime", "latest")
    ]
    if when:
        kept.append(_since(when))
    return "-".join((prefix, *kept))


def _since(when: str) -> str:
    if window := WINDOW.search(when):
        return window[1] or f"until-{window[2]}"
    if version := re.search(r"(\d+\.\d+)\.x", when):
        return version[1]
    day = re.search(r"\d{4}-\d\d", when)
    if day is None:
        raise ValueError(f"no date and no version in {when!r}")
    return day[0]


def entry(row: Row) -> Entry:
    """One row of the CSV as the table it becomes."""
    image, tag = row["image"], row["tag"]
    moving, _, when = tag.partition(" ")
    result: Entry = {"name": environment_name(image, tag)}
    if when:
        result |= {"not_pullable": MOVING, "moving_tag": f"{image}:{moving}"}
    else:
        result["image"] = f"{image}:{tag}"
    notes = [f"{moving} {when}"] if when else []
    for key, column in COLUMNS.items():
        stated = row[column]
        value = clean(key, stated, image)
        if value != stated:
            notes.append(f"{key} stated as: {stated}")
        if value:
            result[key] = value
    result |= _exceptions(image, tag, row)
    if text := "; ".join((*notes, *filter(None, [row["notes"]]))):
        result["notes"] = text
    return result


def clean(key: str, stated: str, image: str) -> str:
    """The version in a cell that says more, so that prefixes match; the rest goes to the notes."""
    if key in VERSIONS:
        version = re.match(r"\d+(\.\d+)*[\w.+]*", stated)
        text = version[0] if version else ""
        # 418.xx+ and 4.6.x promise no more than their numbers.
        return re.sub(r"\.x+\+?$|\+$", "", text)
    if key == "compute_capabilities" and stated.startswith("tensorrt image:"):
        return "3.0+" if image.endswith("/tensorrt") else "6.0+"
    return stated


def _exceptions(image: str, tag: str, row: Row) -> Entry:
    """What differs from the defaults of the row's file."""
    result: Entry = {}
    if image in HOLDS:
        result["holds"] = HOLDS[image]
    elif image.startswith("ultralytics/"):
        # No TensorRT version: there is none in these, or an unpinned one; nothing may be promised.
        tensorrt = ["tensorrt"] if row["tensorrt_version"] else []
        holds = [*tensorrt, *TORCH, image.removeprefix("ultralytics/")]
        if holds != DEFAULTS["ultralytics"]["holds"]:
            result["holds"] = holds
    if re.search(r"igpu|jetson|arm64", tag):
        result["arch"] = ["aarch64"]
    elif f"{image}:{tag}" in ALSO_AARCH64:
        result["arch"] = ["x86_64", "aarch64"]
    return result


def read_rows(facts: Path) -> list[Row]:
    with facts.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def expected(rows: Iterable[Row]) -> dict[str, list[Entry]]:
    """File stem -> its entries, in order of name."""
    files: dict[str, list[Entry]] = {stem: [] for stem, _ in FAMILIES.values()}
    for row in rows:
        files[FAMILIES[row["image"]][0]].append(entry(row))
    for entries in files.values():
        entries.sort(key=_key)
    return files


def _key(item: Entry) -> tuple[tuple[int, str], ...]:
    return name_key(str(item["name"]))


def add_missing(text: str, stem: str, entries: list[Entry]) -> str:
    """The file with every missing entry put in its place; no other line changes."""
    text = text or _header(stem)
    # A comment right above an environment belongs to it.
    starts = [match.start() for match in re.finditer(r"(?m)(?:^#.*\n)*^\[\[environment\]\]", text)]
    head, *blocks = (text[i:j] for i, j in zip([0, *starts], [*starts, len(text)], strict=True))
    names = [_name_in(block) for block in blocks]
    for item in entries:
        if (name := str(item["name"])) not in names:
            position = sum(name_key(other) < name_key(name) for other in names)
            blocks.insert(position, _render(item))
            names.insert(position, name)
    return "\n".join(part.rstrip("\n") + "\n" for part in (head, *blocks))


def _name_in(block: str) -> str:
    return str(tomllib.loads(block)["environment"][0]["name"])


def _header(stem: str) -> str:
    defaults = "".join(f"{key} = {_toml(value)}\n" for key, value in DEFAULTS[stem].items())
    return (
        f"# {COMMENTS[stem]}\n"
        "# Edit freely, with a source; tools/catalogue.py only adds what is missing.\n"
        f"\n[family]\n{defaults}"
    )


def _render(item: Entry) -> str:
    return "[[environment]]\n" + "".join(f"{key} = {_toml(item[key])}\n" for key in item)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if '"' in value or "\\" in value:
        if "'" not in value:
            return f"'{value}'"
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def differences(text: str, entries: list[Entry], stem: str) -> Iterator[str]:
    document = tomllib.loads(text)
    family = document.get("family", DEFAULTS[stem])
    there = {row["name"]: {**family, **row} for row in document.get("environment", [])}
    for item in entries:
        name = str(item["name"])
        if name not in there:
            yield f"{stem}.toml: {name}: missing"
            continue
        for key, value in {**family, **item}.items():
            found = there[name].get(key)
            if found != value:
                yield f"{stem}.toml: {name}: {key} is {found!r}, the CSV has {value!r}"


def main(argv: list[str] | None = None, *, facts: Path = FACTS, images: Path = IMAGES) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; list differences")
    check: bool = parser.parse_args(argv).check
    found: list[str] = []
    for stem, entries in expected(read_rows(facts)).items():
        path = images / f"{stem}.toml"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if check:
            found += differences(text, entries, stem)
        elif entries and (after := add_missing(text, stem, entries)) != text:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name}: added to")
    print("\n".join(found) or "up to date", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
