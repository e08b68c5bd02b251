"""The timing cache of a build: what TensorRT measured of its kernels, kept for the next build.

Python 3.6 to 3.13, TensorRT 8.0 on. The host gives shards, files KEY.DIGEST.cache: KEY names TensorRT,
compute capability and GPU, DIGEST is the beginning of the content's SHA-256. A build combines those of
its own key and writes one that holds them all. Or it gives one file that the user named.
"""

import binascii
import ctypes
import hashlib
import os
import re
import shutil

import probe
from worker import JobError

DIGEST_LENGTH = 32  # digits of SHA-256 in a shard's name


class Cache(object):
    """A cache in use. `native` must outlive the build; `before` is its size in bytes when given."""

    def __init__(self, spec, key, used, dropped, empty, before):
        self.spec = spec
        self.key = key
        self.used = used
        self.dropped = dropped
        self.empty = empty
        self.before = before
        self.native = None
        self.path = None


def own_key(version, cuda):
    """What a measured time holds for; None where the driver shows no GPU or nothing a version."""
    found = probe.devices()
    if not found or not version:
        return None
    gpu = found[0]  # the builder's own choice unless told otherwise
    parts = ["tensorrt", version] + (["cuda" + cuda] if cuda else [])
    parts += ["sm" + gpu["compute_capability"].replace(".", ""), gpu["name"]]
    parts += [
        "%dsms" % gpu["sm_count"]
    ]  # a name alone would not tell a part of a GPU from all of it
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower())


def gpu_uuid():
    """The first digits of this one GPU's UUID; None where the driver does not tell."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        device, uuid = ctypes.c_int(), ctypes.create_string_buffer(16)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if cuda.cuDeviceGetUuid(uuid, device):
            return None
    except (OSError, AttributeError):
        return None
    return binascii.hexlify(uuid.raw).decode("ascii")[:8]


def choose(spec, key):
    """Paths worth reading, oldest first, and {name: reason} of the others that should have been."""
    if not spec["shards"]:
        expected = spec.get("key")
        if expected and expected != key:
            raise JobError(
                "timing-cache",
                "the recorded timing cache is of %s; this is %s" % (expected, key),
                "build on the same GPU model with the same environment, or record anew",
            )
        return [path for path in spec["read"] if os.path.getsize(path)], {}
    good, dropped = [], {}
    for path in sorted(spec["read"], key=os.path.getmtime):
        name = os.path.basename(path)
        owner, digest, _ = name.rsplit(".", 2)
        if owner != key:
            continue
        # TensorRT is never shown damaged bytes: its own checks are of the header alone.
        if hashlib.sha256(read(path)).hexdigest().startswith(digest):
            good.append(path)
        else:
            dropped[name] = "damaged"
    return good, dropped


def read(path):
    with open(path, "rb") as handle:
        return handle.read()


def write(path, blob):
    with open(path, "wb") as handle:
        handle.write(blob)


def serialized(native):
    memory = native.serialize()
    if memory is None:
        raise JobError("timing-cache", "TensorRT could not serialize its timing cache")
    return bytes(memory)


def parse(config, blob, empty):
    """None where TensorRT refuses it: another version, or no cache at all."""
    try:
        native = config.create_timing_cache(blob)
    except Exception:  # a null pointer reaches Python as one of several errors
        return None
    # "Failed to deserialize timing cache. Returning an empty timing cache." is a mere warning.
    if native is None or (len(serialized(native)) <= empty and len(blob) != empty):
        return None
    return native


def combine(config, paths, empty, ignore_mismatch):
    """One cache of all files, the names it holds, and {name: reason} of those refused."""
    native, used, refused = None, [], {}
    for path in reversed(paths):  # where they cannot be joined, the newest stands
        name, other = os.path.basename(path), parse(config, read(path), empty)
        if other is not None and native is None:
            native = other
        elif other is None or not join(native, other, ignore_mismatch):
            refused[name] = "TensorRT refuses it"
            continue
        used.insert(0, name)
    return native, used, refused


def join(native, other, ignore_mismatch):
    """Whether `native` now holds what `other` does.

    Without cuBLAS and cuDNN, TensorRT 8.5 and 8.6 answer False for Myelin's part alone, once the measured
    times are joined: then it has grown, and what a refused cache would add is nothing.
    """
    before = len(serialized(native))
    return native.combine(other, ignore_mismatch) or len(serialized(native)) > before


def load(trt, config, spec, io):
    """Give `config` what earlier builds timed; None where no cache is wanted.

    JobError where a file that the user named is no cache of this TensorRT.
    """
    if spec is None:
        return None
    key = own_key(trt.__version__, spec["cuda"])
    paths, dropped = choose(spec, key)
    empty = len(serialized(config.create_timing_cache(b"")))
    # A header holds the UUID of one GPU. Shards of this key are of the same model: times hold there.
    native, used, refused = combine(config, paths, empty, spec["shards"])
    other_gpu = False
    if native is not None and not config.set_timing_cache(native, spec["shards"]):
        other_gpu = not spec["shards"] and config.set_timing_cache(native, True)
        if not other_gpu:
            refused.update((name, "TensorRT refuses it") for name in used)
            native, used = None, []
    if refused and not spec["shards"]:
        raise refusal(spec, trt.__version__)
    if other_gpu:
        io.log("the timing cache %s was made on another GPU" % used[0])
    if native is None:
        native = config.create_timing_cache(b"")
        config.set_timing_cache(native, True)
    dropped.update(refused)
    cache = Cache(spec, key, used, dropped, empty, len(serialized(native)))
    cache.native = native
    return cache


def refusal(spec, version):
    name = os.path.basename(spec["read"][0])
    return JobError(
        "timing-cache",
        "`%s` is no timing cache of TensorRT %s" % (name, version),
        "name another file, a new one, or take --timing-cache auto",
    )


def save(cache, io):
    """Write the cache; returns what the stamp says of it, None where no cache was wanted."""
    if cache is None:
        return None
    blob = serialized(cache.native)
    write(io.path(cache.spec["write"]), blob)
    return report(cache, len(blob))


def report(cache, after):
    """hit: nothing was timed that a cache can hold; partly: something was added; miss: it was empty.

    `changed`: the written file holds more than any single one that was read.
    """
    had = cache.before > cache.empty
    grown = after > max(cache.before, cache.empty)
    if cache.spec.get("frozen") and (grown or not had):
        raise JobError(
            "timing-cache",
            "the recorded timing cache does not cover this build: TensorRT timed kernels anew "
            "(%d bytes before, %d after)" % (cache.before, after),
            "the model, its shapes or the options are other than at the recording; record anew",
        )
    merged = cache.spec["shards"] and len(cache.used) > 1
    return {
        "result": ("partly" if grown else "hit") if had else "miss",
        "key": cache.key,
        "read": cache.used,
        "dropped": cache.dropped,
        "bytes_before": cache.before if had else 0,
        "bytes_after": after,
        "changed": bool(grown or merged),
    }


def prepare_file(flavour, spec, io):
    """The cache for `trtexec --timingCacheFile=PATH`, PATH being the result's `path`; None as `load`.

    One shard is copied. Several are combined where TensorRT's Python API is in the environment; where
    it is not, the newest is taken. Shards for trtexec are of one GPU, not of its model: before 10.1 it
    refuses the cache of any other and then asks the builder for the one that is not there.
    """
    if spec is None:
        return None
    found = probe.tensorrt_modules()
    version = found[flavour] or found.get("libnvinfer") or ""
    key, uuid = own_key(version if version[:1].isdigit() else None, spec["cuda"]), gpu_uuid()
    key = key + "-" + uuid if key and uuid else None
    paths, dropped = choose(spec, key)
    path = io.path(spec["write"])
    used, refused = [], {}
    # A file that the user named is checked first: trtexec may crash on one that it does not like.
    if found[flavour] and paths and (len(paths) > 1 or not spec["shards"]):
        used, refused = combine_files(flavour, paths, path)
        if refused and not spec["shards"]:
            raise refusal(spec, version)
    elif paths:
        shutil.copyfile(paths[-1], path)
        used = [os.path.basename(paths[-1])]
    dropped.update(refused)
    before = os.path.getsize(path) if os.path.exists(path) else 0
    cache = Cache(spec, key, used, dropped, 0, before)
    cache.path = path
    return cache


def finish_file(cache):
    """What `save` returns, once trtexec has updated the file."""
    if cache is None:
        return None
    return report(cache, os.path.getsize(cache.path) if os.path.exists(cache.path) else 0)


def combine_files(flavour, paths, target):
    """(names, {name: reason}) of what `target` was made of; needs a GPU, as every builder does."""
    import build

    trt = build.load_tensorrt(flavour)
    builder = build.make_builder(trt, build.make_logger(trt))
    config = builder.create_builder_config()
    empty = len(serialized(config.create_timing_cache(b"")))
    native, used, refused = combine(config, paths, empty, True)
    if native is not None and not config.set_timing_cache(native, False):
        # Of another GPU: the same entries under this one's name.
        other, native = native, config.create_timing_cache(b"")
        if not native.combine(other, True):
            native, used = None, []
            refused.update((os.path.basename(path), "TensorRT refuses it") for path in paths)
    if native is not None:
        write(target, serialized(native))
    return used, refused


def run(params, io):
    """A job of its own: the host asks for it where a user's file changed while a build ran."""
    io.progress("combining timing caches")
    used, refused = combine_files(params["flavour"], params["read"], io.path(params["write"]))
    return {"used": used, "refused": refused}
