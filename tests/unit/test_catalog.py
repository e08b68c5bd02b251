import json
import os
import re
from pathlib import Path

import pytest

from trtenv import paths
from trtenv.catalog import Catalog, Environment, load_catalog
from trtenv.catalog.load import KEYS
from trtenv.catalog.model import name_key
from trtenv.errors import UnknownEnvironment, UsageError

IMAGES = paths.images_folder()
VERSION = re.compile(r"\d+(\.\d+)*([a-z]+\d*)?(\.post\d+\.dev\d+)?(\+[\w.]+)?")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog([IMAGES])


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


MINE = '[[environment]]\nname = "mine"\nimage = "registry.local/mine:1"\ntensorrt = "8.5.3.1"\n'


# The shipped catalogue


def test_names_are_sorted_as_people_read_them_in_every_file(catalog: Catalog) -> None:
    for path in IMAGES.glob("*.toml"):
        if path.name == "wheels.toml":
            continue
        names = re.findall(r'(?m)^name = "(.+)"$', path.read_text(encoding="utf-8"))
        assert sorted(set(names), key=name_key) == names, path.name
    assert sorted(catalog, key=name_key) == list(catalog)


def test_every_environment_has_a_source_and_a_known_confidence(catalog: Catalog) -> None:
    for env in catalog.values():
        assert env.source, env.name
        assert env.confidence in ("measured", "stated", "inferred", "doubtful"), env.name
        assert env.arch, env.name
        assert env.holds, env.name


def test_every_version_is_one_so_that_prefixes_match(catalog: Catalog) -> None:
    for env in catalog.values():
        for value in (env.tensorrt, env.cuda, env.cudnn, env.torch, env.driver, *env.python):
            assert value is None or VERSION.fullmatch(value), (env.name, value)


def test_images_are_tags_and_moving_ones_have_none(catalog: Catalog) -> None:
    for env in catalog.values():
        if env.kind != "image":
            continue
        if env.not_pullable:
            assert env.image is None
            assert env.moving_tag
        else:
            assert env.image
            assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]+", env.image)
            assert not env.image.endswith(":latest")


def test_doubtful_releases_say_so(catalog: Catalog) -> None:
    doubtful = ["21.03", "24.06", "24.07", "24.09", "25.01", "25.04", "25.08", "26.02", "26.04"]
    for release in doubtful:
        assert catalog[f"ngc-pytorch-{release}"].confidence == "doubtful"
        assert catalog[f"ngc-tensorrt-{release}"].confidence == "doubtful"
    assert catalog["ultralytics-yolov5-7.0"].confidence == "doubtful"
    assert catalog["ngc-pytorch-24.06"].tensorrt is None
    assert catalog["ngc-pytorch-26.09"].tensorrt is None


def test_well_known_images_hold_what_their_pages_say(catalog: Catalog) -> None:
    ngc = catalog["ngc-pytorch-20.12"]
    assert ngc.image == "nvcr.io/nvidia/pytorch:20.12-py3"
    assert (
        ngc.tensorrt, ngc.cuda, ngc.cudnn, ngc.torch, ngc.python, ngc.driver,
    ) == ("7.2.2.1", "11.1.1", "8.0.5", "1.8.0a0+1606899", ("3.8",), "455")  # fmt: skip
    assert ngc.has_torch
    assert not catalog["ngc-tensorrt-24.08"].has_torch
    assert catalog["ngc-tritonserver-22.11"].serving
    assert catalog["ngc-pytorch-24.12-igpu"].arch == ("aarch64",)
    assert catalog["l4t-tensorrt-8.5.2"].image == "nvcr.io/nvidia/l4t-tensorrt:r8.5.2-runtime"
    assert catalog["ultralytics-yolov5-7.0"].tensorrt == "8.5.0.12"


@pytest.mark.parametrize(
    "name",
    ["tensorrt-8.5.1", "tensorrt-8.5.2", "tensorrt-8.5.3", "tensorrt-8.6.0",
     "rtx-1.4", "rtx-1.5", "rtx-1.6", "rtx-1.7"],
)  # fmt: skip
def test_wheels_are_pinned_and_agree_with_the_version_they_claim(
    catalog: Catalog, name: str
) -> None:
    env = catalog[name]
    assert env.kind == "wheel"
    for requirement in (*env.requirements, *env.torch_requirements):
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", requirement)
    pinned = dict(requirement.split("==") for requirement in env.requirements)
    assert {"numpy", "onnx"} < pinned.keys()
    for package, version in pinned.items():
        if package.startswith("tensorrt"):
            assert (env.tensorrt or "").startswith(version)
    assert (env.flavour == "tensorrt-rtx") is name.startswith("rtx-")
    assert env.has_torch is name.startswith("rtx-")


def test_old_wheels_get_cudnn_8_and_a_numpy_that_still_has_np_bool(catalog: Catalog) -> None:
    for name in ("tensorrt-8.5.1", "tensorrt-8.5.2", "tensorrt-8.5.3", "tensorrt-8.6.0"):
        text = " ".join(catalog[name].requirements)
        assert re.search(r"nvidia-cudnn-cu1[12]==8\.", text)
        assert "numpy==1.23." in text


# Matching


def test_prefixes_find_environments_of_their_flavour_only(catalog: Catalog) -> None:
    assert "ultralytics-yolov5-7.0" in {e.name for e in catalog.values() if e.matches_trt("8.5.0")}
    assert [env.name for env in catalog.values() if env.matches_trt("rtx-1.7")] == ["rtx-1.7"]
    assert not [env.name for env in catalog.values() if env.matches_trt("1.7")]
    old = {env.name for env in catalog.values() if env.matches_torch("1.13")}
    assert {"ngc-pytorch-22.10", "ultralytics-yolov5-7.0", "l4t-pytorch-35.1.0-pth1.13"} <= old
    assert catalog["rtx-1.7"].matches_torch("2.13")
    assert not catalog["tensorrt-8.5.3"].matches_torch("2.13")


@pytest.mark.parametrize("wanted", ["rtx-", "latest", "rtx-new"])
def test_nonsense_is_refused_for_every_flavour(catalog: Catalog, wanted: str) -> None:
    for name in ("rtx-1.7", "ngc-pytorch-24.08"):
        with pytest.raises(UsageError, match="not a version of TensorRT"):
            catalog[name].matches_trt(wanted)


@pytest.mark.parametrize(
    ("stated", "gpu", "runs"),
    [
        ("6.0+ (Pascal..Ampere)", "5.2", False),
        ("6.0+ (Pascal..Ampere)", "8.6", None),
        ("7.5+ (Turing..Hopper,Ada,Blackwell)", "10.0", None),
        ("7.2;8.7", "8.7", True),
        ("7.2;8.7", "8.6", False),
        (None, "8.6", None),
    ],
)
def test_stated_compute_capabilities_are_read_where_they_can_be(
    stated: str | None, gpu: str, runs: bool | None
) -> None:
    env = Environment(name="x", image="x:1", compute_capabilities=stated)
    assert runs is env.runs_on(gpu)


def test_facts_carry_source_and_confidence_of_the_tensorrt_version(catalog: Catalog) -> None:
    facts = {fact.key: fact for fact in catalog["ngc-pytorch-24.08"].facts()}
    assert (facts["tensorrt"].value, facts["tensorrt"].confidence) == ("10.3.0.26", "stated")
    assert facts["cuda"].confidence is None
    assert facts["cuda"].source == catalog["ngc-pytorch-24.08"].source
    assert "jetpack" not in facts


def test_json_has_every_key_and_only_plain_values(catalog: Catalog) -> None:
    for env in catalog.values():
        document = env.to_dict()
        assert {*KEYS, "on_demand", "origin"} == document.keys()
        assert document == json.loads(json.dumps(document))


# Folders


def test_a_later_folder_replaces_an_environment_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", MINE + 'cuda = "11.8"\n')
    write(tmp_path / "b", MINE.replace("mine:1", "mine:2"))
    mine = load_catalog([tmp_path / "a", tmp_path / "b"])["mine"]
    assert (mine.image, mine.cuda) == ("registry.local/mine:2", None)
    assert mine.origin == str(tmp_path / "b" / "mine.toml")


def test_family_gives_defaults_that_a_row_may_override(tmp_path: Path) -> None:
    write(
        tmp_path,
        '[family]\nkind = "python"\nholds = ["tensorrt", "torch"]\n'
        '[[environment]]\nname = "a"\ninterpreter = "/opt/a/bin/python"\npython = "3.10"\n'
        'variables = { LD_LIBRARY_PATH = "/opt/a/lib" }\n'
        '[[environment]]\nname = "b"\ninterpreter = "/opt/b/bin/python"\nholds = ["tensorrt"]\n',
    )
    catalog = load_catalog([tmp_path])
    assert catalog["a"].variables == (("LD_LIBRARY_PATH", "/opt/a/lib"),)
    assert catalog["a"].python == ("3.10",)
    assert (catalog["a"].has_torch, catalog["b"].has_torch) == (True, False)


def test_unknown_names_are_answered_with_similar_ones(catalog: Catalog) -> None:
    for ask in (catalog.get, catalog.__getitem__):
        with pytest.raises(UnknownEnvironment, match=r"called `ngc-pytorch-20\.13`") as caught:
            ask("ngc-pytorch-20.13")
        assert "did you mean `ngc-pytorch-20." in str(caught.value.hint)
    assert "trtenv env list" in str(_hint(lambda: catalog["?"]))
    assert "ngc-pytorch-20.13" not in catalog


def _hint(action: object) -> str | None:
    with pytest.raises(UsageError) as caught:
        action()  # type: ignore[operator]
    return caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[[environment]\n", "not valid TOML", None),
        ('[environment]\nname = "x"\n', "must be a list of tables", "[[environment]]"),
        ("family = 1\n", "`family` must be a table", "[family]"),
        ('[family]\nname = "x"\n', "`name` belongs to one environment", None),
        ('[[enviroment]]\nname = "x"\n', "unknown key `enviroment`", "`environment`"),
        ('[[environment]]\nimage = "x:1"\n', "number 1: bad or missing name: None", "lower-case"),
        ('[[environment]]\nname = "My Env"\n', "bad or missing name: 'My Env'", "lower-case"),
        (MINE + 'tensort = "8"\n', "environment `mine`: unknown key `tensort`", "`tensorrt`"),
        (MINE + "cuda = 11.8\n", "`cuda` must be text, not 11.8", 'cuda = "11.8"'),
        (MINE + 'cuda = "newest"\n', "`cuda` must start with a version number", "`notes`"),
        (MINE + 'cuda = ""\n', "`cuda` must be text, not ''", None),
        (MINE + 'holds = "torch"\n', "`holds` must be a list of texts", None),
        (
            MINE + 'holds = ["pytorch"]\n',
            "`holds` cannot be `pytorch`",
            "tensorrt, onnxruntime, torch",
        ),
        (MINE + 'arch = ["amd64"]\n', "`arch` cannot be `amd64`", "x86_64, aarch64"),
        (MINE + 'kind = "docker"\n', "`kind` cannot be `docker`", "image, wheel, python"),
        (MINE + 'serving = "yes"\n', "`serving` must be true or false", None),
        (MINE + 'variables = ["A=1"]\n', "`variables` must be a table", "LD_LIBRARY_PATH"),
        (MINE + 'not_pullable = "gone"\n', "`image` names what `not_pullable`", "`moving_tag`"),
        (MINE + 'kind = "wheel"\n', "`requirements` is missing; kind `wheel`", None),
        (MINE + 'kind = "python"\n', "`interpreter` is missing; kind `python`", None),
        ('[[environment]]\nname = "x"\n', "`image` is missing; kind `image`", None),
        (MINE + MINE, "`mine` is defined twice", "rename or remove"),
    ],
)
def test_every_mistake_names_file_and_key(
    tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_catalog([tmp_path])
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert (hint is None) or hint in str(caught.value.hint)


def test_a_name_may_not_occur_in_two_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, MINE, "a.toml")
    write(tmp_path, MINE, "b.toml")
    with pytest.raises(UsageError, match=r"b\.toml.*defined twice.*a\.toml"):
        load_catalog([tmp_path])


def test_environments_are_added_or_replaced(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    other = Environment(name="another", image="x:1")
    catalog = load_catalog([tmp_path])
    assert list(catalog.replaced([other])) == ["another", "mine"]
    moved = Environment(name="mine", image="x:2")
    found = catalog.replaced([other]).replaced([moved])
    assert (len(found), found["mine"], found["another"]) == (2, moved, other)
    assert catalog["mine"].image == "registry.local/mine:1"


def test_text_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"# \xff\n")
    with pytest.raises(UsageError, match=r"x\.toml: not UTF-8"):
        load_catalog([tmp_path])


# The cache


def settled(path: Path) -> Path:
    """As after an installation: the file is much older than any cache of it."""
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


def test_cached_catalogue_equals_the_parsed_one(tmp_path: Path, catalog: Catalog) -> None:
    cache = tmp_path / "cache" / "catalog.json"
    first = load_catalog([IMAGES], cache=cache)
    again = load_catalog([IMAGES], cache=cache)
    assert cache.is_file()
    assert dict(catalog) == dict(first) == dict(again)
    assert [path.name for path in cache.parent.iterdir()] == ["catalog.json"]


def test_cache_is_used_while_the_file_stays_and_never_after(tmp_path: Path) -> None:
    cache = tmp_path / "catalog.json"
    path = settled(write(tmp_path / "images", MINE))
    load_catalog([path.parent], cache=cache)
    document = json.loads(cache.read_text(encoding="utf-8"))
    document["files"][str(path)][2]["mine"]["cuda"] = "99.9"
    cache.write_text(json.dumps(document), encoding="utf-8")
    assert load_catalog([path.parent], cache=cache)["mine"].cuda == "99.9"

    write(path.parent, MINE + 'cuda = "11.8"\n')
    assert load_catalog([path.parent], cache=cache)["mine"].cuda == "11.8"


def test_a_cached_name_may_not_occur_in_a_new_file_of_its_folder(tmp_path: Path) -> None:
    cache = tmp_path / "catalog.json"
    path = settled(write(tmp_path / "images", MINE, "a.toml"))
    load_catalog([path.parent], cache=cache)
    write(path.parent, MINE, "b.toml")
    with pytest.raises(UsageError, match=r"b\.toml.*defined twice.*a\.toml"):
        load_catalog([path.parent], cache=cache)


def test_a_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    cache = tmp_path / "catalog.json"
    path = write(tmp_path / "images", MINE)
    load_catalog([path.parent], cache=cache)
    stamp = path.stat()
    write(path.parent, MINE.replace("8.5.3.1", "8.5.2.2"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load_catalog([path.parent], cache=cache)["mine"].tensorrt == "8.5.2.2"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "files": {"a": 1}}', "\xff"])
def test_a_broken_cache_is_ignored(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "catalog.json"
    cache.write_bytes(content.encode("latin-1"))
    path = write(tmp_path / "images", MINE)
    assert "mine" in load_catalog([path.parent], cache=cache)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    path = write(tmp_path / "images", MINE)
    assert "mine" in load_catalog([path.parent], cache=tmp_path / "file" / "catalog.json")


# Where things lie


def test_folders_are_found_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRTENV_CONFIG_DIR", str(tmp_path / "config"))
    work = tmp_path / "work"
    (work / "images").mkdir(parents=True)
    (work / "images" / "cat.png").write_bytes(b"")
    monkeypatch.chdir(work)
    assert tmp_path / "cache" == paths.cache_folder()
    assert tmp_path / "config" == paths.config_folder()
    assert paths.catalog_folders() == [IMAGES]

    write(tmp_path / "config" / "images", MINE)
    write(work / "images", MINE.replace('"mine"', '"here"'))
    assert [IMAGES, tmp_path / "config" / "images", work / "images"] == paths.catalog_folders()
    assert {"mine", "here"} < set(load_catalog(paths.catalog_folders()))


def test_our_own_folder_is_not_read_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRTENV_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(IMAGES.parent)
    assert paths.catalog_folders() == [IMAGES]


def test_templates_lie_beside_the_images() -> None:
    assert IMAGES.parent == paths.templates_folder().parent
