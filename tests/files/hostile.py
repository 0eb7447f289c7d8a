"""Files made to harm whoever opens them, or merely broken, each by a name that says how."""

import io
import json
import pickle
import random
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import Hostile
from PIL import Image, ImageDraw

from torchdigits import SigmoidMLP
from torchdigits.recognition.pictures import FORMATS

Named = Iterator[tuple[str, bytes]]

# Pickles. A value is its opcodes.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def many(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def called(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + many(*arguments) + b"R"


def storage(count: bytes, key: bytes = text("0"), kind: str = "FloatStorage") -> bytes:
    return many(text("storage"), f"ctorch\n{kind}\n".encode(), key, text("cpu"), count) + b"Q"


def tensor(content: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    shape = (number(offset), many(*map(number, size)), many(*map(number, stride)))
    return called("torch._utils._rebuild_tensor_v2", content, *shape, b"\x89", called("collections.OrderedDict"))


DOUBLING = b")q\0" + b"h\0h\0\x86q\0" * 60  # a tuple of the same tuple twice, and so on: 2**60 ways through it


def code_in_pickles(canary: Path) -> Named:
    """Values that make a folder when Python unpickles them, in every way that a pickle has to call something."""
    path, mkdir = text(str(canary)), b"cos\nmkdir\n"

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"__reduce__, protocol {protocol}", pickle.dumps(Hostile(canary), protocol)[:-1]
        yield f"in a tuple, protocol {protocol}", pickle.dumps(({"x": [Hostile(canary)]}, 1), protocol)[:-1]
    yield "INST", b"(" + path + b"ios\nmkdir\n"
    yield "OBJ", b"(" + mkdir + path + b"o"
    lazily = b"cbuiltins\nmap\n" + many(mkdir, b"](" + path + b"e")
    yield "NEWOBJ", b"cbuiltins\ntuple\n" + lazily + b"\x81\x85\x81"
    yield "NEWOBJ_EX", b"cbuiltins\ntuple\n" + lazily + b"\x81\x85}\x92"
    yield "BUILD", b"ctypes\nSimpleNamespace\n)\x81" + mapping(__setstate__=mkdir) + b"b" + path + b"b"
    yield "a key", b"}" + mkdir + many(path) + b"RNs"
    yield "memo", mkdir + b"q\x010" + b"h\x01" + many(path) + b"R"
    yield "Python 2's name", b"cnt\nmkdir\n".replace(b"nt", b"posix") + many(path) + b"R"
    yield "through torch", b"\x80\x04" + text("torch") + text("serialization.os.mkdir") + b"\x93" + many(path) + b"R"
    statement = text(f"__import__('os').mkdir({str(canary)!r})")
    yield "exec", called("builtins.exec", statement)
    yield "timeit", called("timeit.timeit", statement, text("pass"), b"ctime\ntime\n", number(1))
    yield (
        "getattr",
        called("builtins.getattr", called("importlib.import_module", text("os")), text("mkdir")) + (many(path) + b"R"),
    )


def zipped(pickled: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    """As torch.save arranges it; without other records, the numbers of a network."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
        for name, content in ({"data/0": bytes(4 * 7850)} if records is None else records).items():
            archive.writestr(f"x/{name}", content)
    return file.getvalue()


def of_layer(weights: bytes, biases: bytes, **more: bytes) -> bytes:
    state = mapping(**{"network.layers.0.weight": weights, "network.layers.0.bias": biases})
    return b"\x80\x02" + mapping(state_dict=state, **more) + b"."


WEIGHTS = tensor(storage(number(7850)), (10, 784), (784, 1))
BIASES = tensor(storage(number(7850)), (10,), (1,), 7840)
SOUND = of_layer(WEIGHTS, BIASES)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def code_in_checkpoints(canary: Path) -> Named:
    """Checkpoints that would make a folder."""
    for name, value in code_in_pickles(canary):
        yield f"{name}, in hyper_parameters", zipped(of_layer(WEIGHTS, BIASES, hyper_parameters=value))
        yield f"{name}, plain", b"\x80\x02" + value + b"."
    value = called("os.mkdir", text(str(canary)))
    yield "a weight", zipped(of_layer(value, BIASES))
    yield "an identity", zipped(b"\x80\x02" + value + b"Q.")
    yield "a storage's key", zipped(of_layer(tensor(storage(number(7850), value), (10, 784), (784, 1)), BIASES))
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    yield "torch's old format", head + b"\x80\x02" + value + b"." + pickle.dumps([], 2)
    yield "TorchScript", zipped(b"\x80\x02" + value + b".", {"constants.pkl": b"\x80\x02" + value + b"."})
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../../escaped"):
            entry = tarfile.TarInfo(name)
            entry.size = len(value) + 1
            archive.addfile(entry, io.BytesIO(value + b"."))
    yield "torch's oldest format", file.getvalue()


def broken_checkpoints() -> Named:
    """Checkpoints of no network of finite numbers, and such as would take all time or memory."""
    for name, value in {
        "a bytearray of 3 GB": called("builtins.bytearray", number(3 * 2**30)),
        "a tensor of 4 TB": called("torch.FloatTensor", number(2**40)),
        "text that doubles": text("x")
        + b"q\0"
        + b"".join(b"c_codecs\nencode\nh\0" + text("hex") + b"\x86Rq\0" for _ in range(40)),
        "a key without end": DOUBLING + b"}h\0Ns",
        "a value without end": DOUBLING,
        "a call without end": DOUBLING + b")R",
        "an identity without end": DOUBLING + b"Q",
        "a list in itself": b"]q\0h\0a",
        "nested": b"(" * 20_000 + b"t" * 20_000,
        "lists in lists": b"]" * 5_000 + b"a" * 4_999,
        "many lists": b"(" + b"]" * 120_000 + b"l",
        "a memo of 4 billion": b"Nr\xff\xff\xff\xff",
        "a text of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 2**63": b"\x8e" + b"\xff" * 8,
        "a bytearray of 2**60": b"\x96" + struct.pack("<Q", 2**60),
        "an integer of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "an integer of many digits": b"L" + b"9" * 100_000 + b"L\n",
        "an extension": b"\x82\x01",
        "a mark alone": b"t",
        "nothing": b"",
    }.items():
        yield name, zipped(of_layer(WEIGHTS, BIASES, hyper_parameters=value))
    yield "an identity that is a number", zipped(b"\x80\x02" + number(1) + b"Q.")
    for name, weights in {
        "a storage of 2**62": tensor(storage(number(2**62)), (10, 784), (784, 1)),
        "a storage without end": tensor(storage(DOUBLING), (10, 784), (784, 1)),
        "another storage": tensor(storage(number(7850), text("../../../x")), (10, 784), (784, 1)),
        "too small a storage": tensor(storage(number(7850)), (20, 784), (784, 1)),
        "sizes of 2**62": tensor(storage(number(7850)), (2**62, 2**62), (0, 0)),
        "sizes that overflow": tensor(storage(number(7850)), (2**61, 784), (0, 0)),
        "sizes of 2**100": tensor(storage(number(7850)), (2**100, 784), (784, 1)),
        "no columns": tensor(storage(number(7850)), (2**40, 0), (1, 1)),
        "repeated rows": tensor(storage(number(7850)), (2**20, 784), (0, 1)),
        "backwards": tensor(storage(number(7850)), (10, 784), (-784, -1), 7849),
        "an offset of 2**62": tensor(storage(number(7850)), (10, 784), (784, 1), 2**62),
        "an offset before the start": tensor(storage(number(7850)), (10, 784), (784, 1), -1),
        "bits": tensor(storage(number(7850), kind="BoolStorage"), (10, 784), (784, 1)),
    }.items():
        yield name, zipped(of_layer(weights, BIASES))
    ones = torch.ones(10, 784)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that quantization is to be done otherwise
        quantized = torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8)
    for name, other in {
        "sparse": ones.to_sparse(),
        "quantized": quantized,
        "meta": ones.to("meta"),
        "complex": ones.to(torch.complex64),
        "halves": ones.half(),
        "bytes": ones.byte(),
        "not a number": ones * torch.nan,
        "infinite": ones / 0,
        "text": "weights",
    }.items():
        state = {"network.layers.0.weight": other, "network.layers.0.bias": torch.ones(10, dtype=ones.dtype)}
        yield name, saved({"state_dict": state})
    good = {f"network.{name}": parameter for name, parameter in SigmoidMLP([784, 3, 10]).state_dict().items()}
    yield "keys that are numbers", saved({"state_dict": dict(enumerate(good.values()))})
    yield "another prefix", saved({"state_dict": {f"module.{name}": value for name, value in good.items()}})
    yield "a layer too many", saved({"state_dict": good | {"network.layers.9.weight": torch.ones(2)}})
    for what, compression in (("deflated", 8), ("bzip2", 12), ("lzma", 14)):
        yield what, zipped(SOUND, {"data/0": bytes(3 * 10**7)}, compression)
    yield "within another", zipped(zipped(SOUND))
    yield "many entries", zipped(SOUND, {f"data/{key}": b"" for key in range(2_000)})
    yield "other bytes first", b"#!/bin/sh\n" * 1000 + zipped(SOUND, {"data/0": bytes(4)})
    yield "another byte order", zipped(SOUND).replace(b"little", b"bigger")
    flagged = bytearray(zipped(SOUND))
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        flagged[flagged.index(signature) + place] |= 1
    yield "encrypted", bytes(flagged)
    large = zipped(of_layer(WEIGHTS, BIASES), {"data/0": bytes(10**6)})
    yield "one entry a thousand times", overlapping(large)
    yield "one name ten thousand times, of nothing", overlapping(large, 10_000, nothing=True)
    lying = bytearray(zipped(SOUND))
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    yield "an entry of 2 GB", bytes(lying)


def overlapping(content: bytes, times: int = 1000, nothing: bool = False) -> bytes:
    """The archive with entries more that all are its last one, by other names; or by its own, with no content."""
    directory = content.index(b"PK\x01\x02")
    last, end = content.rindex(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    copies = b"".join(content[last:end].replace(b"data/0", f"d{key:05d}".encode()) for key in range(times))
    if nothing:
        copies = (content[last : last + 20] + bytes(8) + content[last + 28 : end]) * times + content[last:end]
    count, size = len(re.findall(b"PK\x01\x02", content)) + times + nothing, end - directory + len(copies)
    return content[:end] + copies + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, directory, 0)


def damaged_checkpoints() -> Named:
    """A sound one, cut off at every kilobyte, and with bytes altered; some still hold a network."""
    network = SigmoidMLP([784, 3, 10])
    content = saved({"state_dict": {f"network.{name}": value for name, value in network.state_dict().items()}})
    for length in [*range(0, len(content), 1024), len(content) - 1]:
        yield f"cut off after {length} bytes", content[:length]
    chance = random.Random(7)
    for _ in range(40):
        altered = bytearray(content)
        places = [chance.choice((chance.randrange(len(content)), chance.randrange(900), -chance.randrange(1, 900)))]
        for place in places:
            altered[place] ^= 1 << chance.randrange(8)
        yield f"altered at {places}", bytes(altered)


# Other formats


def broken_json() -> Named:
    good: dict[str, Any] = {
        "sizes": [784, 10],
        "weights": [np.ones((10, 784)).tolist()],
        "biases": [np.ones((10, 1)).tolist()],
    }
    good["cost"] = "QuadraticCost"
    yield "nested", b"[" * 10**6
    yield "objects in objects", b'{"sizes":' * 10**5
    yield "an integer of many digits", json.dumps(good).replace("784", "7" * 10**6).encode()
    yield "1e999", json.dumps(good).replace("1.0", "1e999", 1).encode()
    yield "NaN", json.dumps(good).replace("1.0", "NaN", 1).encode()
    yield "2**64", json.dumps(good).replace("1.0", str(-(2**64)), 1).encode()
    yield "the same key twice", json.dumps(good)[:-1].encode() + b', "weights": 3}'
    yield "numbers in texts", re.sub(r"1\.0", '"1.0"', json.dumps(good)).encode()
    yield "enormous sizes", json.dumps(good | {"sizes": [2**62, 2**62]}).encode()
    yield "a long text among short ones", json.dumps(good | {"weights": [[["x" * 10**5, *"y" * 10**4]]]}).encode()
    biases = [*good["biases"], [[1.0]] * 3]
    yield "a matrix too few", json.dumps(good | {"sizes": [784, 10, 3], "biases": biases}).encode()
    yield "deep numbers", json.dumps(good | {"weights": [json.loads("[" * 60 + "1" + "]" * 60)]}).encode()
    yield "deep sizes", json.dumps(good | {"sizes": json.loads("[" * 800 + "]" * 800)}).encode()
    yield "many layers", json.dumps(good | {"weights": [[[1.0]]] * 10**4, "biases": [[[1.0]]] * 10**4}).encode()
    yield "a cost that commands the terminal", json.dumps(good | {"cost": "\x1b[31m\n" * 1000}).encode()
    yield "half a surrogate", json.dumps(good | {"cost": "\ud800"}).encode()
    for name in ("sizes", "weights", "biases", "cost"):
        values: tuple[object, ...] = (None, True, {}, [], {"0": 1}, "", -1, [[]], [[[]]])
        for value in values:
            yield f"{name} of {value}", json.dumps(good | {name: value}).encode()


def npy(shape: object, descr: object = "<f4", content: bytes = b"", version: bytes = b"\x01\0") -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def npz(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A network, but for these entries."""
    content, file = np.ones((10, 784), np.float32).tobytes(), io.BytesIO()
    sound = {"weights_1": npy((10, 784), content=content), "biases_1": npy((10,), content=content[:40])}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, entry in (sound | entries).items():
            archive.writestr(f"{name}.npy", entry)
    return file.getvalue()


def broken_npz(canary: Path) -> Named:
    content = np.ones((10, 784), np.float32).tobytes()
    for name, value in code_in_pickles(canary):
        yield f"{name}, as objects", npz({"weights_1": npy((1,), "|O", b"\x80\x02" + value + b".")})
        yield f"{name}, plain", b"\x80\x02" + value + b"."
    for name, entry in {
        "a shape of 2**60": npy((2**30, 2**30)),
        "a shape of 8 GB": npy((2**21, 2**10), content=content),
        "a shape that overflows": npy((2**62, 2**62, 4)),
        "a negative shape": npy((-10, 784), content=content),
        "a shape of nothing": npy((0, 2**40)),
        "a shape in a text": npy("(10, 784)", content=content),
        "texts of 1 GB": npy((2**3,), f"<U{2**25}"),
        "numbers of no bytes": npy((2**62,), "|V0"),
        "fields": npy((10,), [("a", "<f4", (2**20, 2**10))]),
        "nested": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000,
        "minuses": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"-" * 8999 + b"1",
        "a header of 4 GB": b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
        "another version": npy((10, 784), content=content, version=b"\x09\0"),
        "no numbers": npy((10, 784)),
        "no array": b"weights",
        "nothing": b"",
    }.items():
        yield name, npz({"weights_1": entry})
        yield f"{name}, alone", entry
    yield "deflated", npz({"weights_1": npy((10, 10**6), content=bytes(4 * 10**7))}, zipfile.ZIP_DEFLATED)
    yield "a path", npz({"../../escaped": npy((1,), content=content[:4])})
    yield "many", npz({f"weights_{layer}": b"" for layer in range(2, 5000)})
    yield "overlapping", overlapping(npz({"data/0": bytes(10**6)}))


def drawn(form: str, **options: Any) -> bytes:
    """A seven."""
    picture, file = Image.new("L", (60, 60), 255), io.BytesIO()
    ImageDraw.Draw(picture).line([(15, 15), (45, 15), (30, 50)], 0, width=5)
    picture.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, part: bytes) -> bytes:
    return struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))


def broken_pictures() -> Named:
    for form in FORMATS:
        content = drawn(form)
        for share in (0.1, 0.5, 0.9):
            yield f"cut off.{form}", content[: int(share * len(content))]
    png, gif, bmp = drawn("PNG"), drawn("GIF"), drawn("BMP")

    def png_of(width: int, height: int, data: bytes, depth: int = 8, **chunks: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
        parts = {"IHDR": header, **chunks, "IDAT": data, "IEND": b""}
        return png[:8] + b"".join(png_chunk(kind.encode(), part) for kind, part in parts.items())

    blank = zlib.compress(bytes(10**7))
    yield "2**31.png", png_of(2**31 - 1, 2**31 - 1, blank)
    yield "13,000x13,000.png", png_of(13_000, 13_000, blank)
    yield "9,400x9,400.png", png_of(9_400, 9_400, blank)
    yield "9,400x9,400 of 16 bits.png", png_of(9_400, 9_400, blank, 16)
    yield "9,400x9,400 without ink.png", png_of(9_400, 9_400, zlib.compress(bytes(9_401 * 9_400)))
    yield "89 million in a row.png", png_of(89_000_000, 1, blank)
    yield "89 million in a column.png", png_of(1, 89_000_000, blank)
    yield "a text of 100 MB.png", png_of(60, 60, blank, zTXt=b"x\0\0" + zlib.compress(bytes(10**8)))
    yield "a profile of 100 MB.png", png_of(60, 60, blank, iCCP=b"x\0\0" + zlib.compress(bytes(10**8)))
    yield "65,535x65,535.gif", gif[:6] + b"\xff" * 4 + gif[10:]
    yield "65,535x1,300.gif", gif[:6] + struct.pack("<HH", 65535, 1300) + gif[10:]
    yield "2**31.bmp", bmp[:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + bmp[26:]
    yield "lines of one pixel.bmp", bmp[:18] + struct.pack("<iihhi", 65_000, 1_300, 1, 8, 1) + bmp[34:]
    for header in (b"P6 99999999 99999999 255\n", b"P5 " + b"9" * 10**5, b"P3 9 9 0 ", b"P4 9000 9000\n", b"Pf 9 9 0"):
        yield f"{header[:8]!r}.ppm", header
    entries = ((256, 4, 2**31), (257, 4, 2**31), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 2**31))
    for width, count in ((2**31, 1), (9_000, 1), (9_000, 2**31), (60, 2**31)):
        tags = b"".join(
            struct.pack("<HHII", tag, kind, count if tag == 273 else 1, width if tag < 258 else value)
            for tag, kind, value in entries
        )
        yield f"{width} and {count}.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(4)
    tiff = drawn("TIFF")
    yield "a directory that is its own next.tif", tiff[:-4] + tiff[4:8]
    webp = drawn("WEBP", lossless=True)
    yield "16,383x16,383.webp", webp[:21] + b"\xff\xff\xff\x0f" + webp[25:]
    yield "postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n"
    yield "text.jpg", b"seven"
    yield "nothing.webp", b""


def deflated_zeros(count: int) -> bytes:
    """`count` zeros, some thousands of times smaller, without compressing them all."""
    packer = zlib.compressobj(9)
    packer.compress(bytes(2**20))
    packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    times, rest = divmod(count, 2**20)
    last = packer.compress(bytes(rest)) + packer.flush()
    return b"\x78\xda" + part * times + last[:-4] + struct.pack(">HH", count % 65521, 1)


def tiff(width: int, height: int, compression: int, *more: tuple[int, int, int, bytes]) -> bytes:
    """A grey picture with other tags besides: a number, a type, a count and the bytes of the values."""
    common = {256: width, 257: height, 258: 8, 259: compression, 262: 1}
    entries = [(number, 4, 1, struct.pack("<I", value)) for number, value in common.items()] + [*more]
    place = 8 + 2 + 12 * len(entries) + 4
    directory, values = b"", b""
    for number, kind, count, value in sorted(entries):
        directory += struct.pack("<HHI", number, kind, count)
        directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", place + len(values))
        values += value if len(value) > 4 else b""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + values


def endless_pictures() -> Named:
    """Pictures of few bytes that take a decoder minutes, or gigabytes."""
    packed = deflated_zeros(30_000 * 29_984)
    yield (
        "one tile of 900 million pixels.tif",
        tiff(
            60, 60, 8,
            (322, 4, 1, struct.pack("<I", 30_000)),
            (323, 4, 1, struct.pack("<I", 29_984)),
            (325, 4, 1, struct.pack("<I", len(packed))),
            (324, 4, 1, struct.pack("<I", 8 + 2 + 12 * 9 + 4)),
        ) + packed,
    )  # fmt: skip
    number = 4_000_000
    yield (
        "four million tiles of a pixel.tif",
        tiff(
            2000, 2000, 1,
            (322, 4, 1, struct.pack("<I", 1)),
            (323, 4, 1, struct.pack("<I", 1)),
            (324, 1, number, bytes([8]) * number),
            (325, 1, number, bytes([1]) * number),
        ),
    )  # fmt: skip
    sound = drawn("JPEG")
    yield "Exif a million times.jpg", sound[:2] + b"\xff\xe1\0\x08Exif\0\0" * 10**6 + sound[2:]
    yield "ten million times FF.jpg", sound[:2] + b"\xff" * 10**7 + sound[2:]
    large = io.BytesIO()
    Image.new("L", (3_000, 3_000)).save(large, "JPEG", progressive=True)
    scans = large.getvalue()
    yield "thousands of scans.jpg", scans[:-2] + scans[scans.rindex(b"\xff\xda") : -2] * 2_000 + scans[-2:]
    yield "comments.ppm", b"P2 9000 9000\n" + b"#\n" * 2_000_000
    yield "of 254 greys.ppm", b"P5 9000 9000 254\n" + bytes(9000 * 9000)
    png, gif = drawn("PNG"), drawn("GIF")
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**6)))
    yield "thousands of profiles.png", png[:33] + profile * 9_000 + png[33:]
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 5, 4_000_000, 26) + bytes(4 + 8 * 4_000_000)
    yield "an orientation of rationals.png", png[:33] + png_chunk(b"eXIf", exif) + png[33:]
    comment = b"!\xfe\x01x\0"
    yield "millions of comments.gif", gif[:-1][: gif.index(b",")] + comment * 4_000_000 + gif[gif.index(b",") :]
    rle = drawn("BMP")
    header = struct.pack("<IiiHHIIiiII", 40, 9_000, 9_000, 1, 8, 1, 0, 0, 0, 256, 0)
    pixels = (b"\xff\0" * 36 + b"\0\0") * 9_000
    yield "run-length coded.bmp", rle[:10] + struct.pack("<I", 54 + 1024) + header + bytes(1024) + pixels


_SIZES = {  # of a picture's fields; what follows is its data
    "BMP": (2, 4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4, 1024),
    "GIF": (6, 2, 2, 1, 1, 1, 12, 1, 2, 2, 2, 2, 1, 1, 1),
    "PNG": (8, 4, 4, 4, 4, 1, 1, 1, 1, 1, 4, 4, 4),
    "TIFF": (2, 2, 4, 2, *(2, 2, 4, 4) * 9, 4),
    "WEBP": (4, 4, 4, 4, 4, 3, 3, 2, 2),
}


def fields_of(form: str) -> list[bytes]:
    """A seven, cut where one field of its format ends and the next begins."""
    content = drawn(form)
    if form == "JPEG":
        return [piece for piece in re.split(rb"(\xff[\xc0-\xfe])(..)", content, flags=re.DOTALL) if piece]
    if form == "PPM":
        return re.split(rb"(\s)", content, maxsplit=4)
    ends = [0, *accumulate(_SIZES[form]), len(content)]
    return [content[start:end] for start, end in pairwise(ends)]


def spare_fields() -> list[bytes]:
    """What could be elsewhere in a picture: numbers of each length, and parts that its drawing does not need."""
    numbers = [0, 1, 2, 7, 255, 256, 322, 323, 324, 325, 4096, 30_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1]
    packed = [
        number.to_bytes(size, order)
        for size in (1, 2, 4)
        for number in numbers
        if number < 256**size
        for order in ("little", "big")
    ]
    entries = [
        struct.pack("<HHII", tag, 4, 1, value) for tag in (322, 323, 324, 325, 330, 34665) for value in (1, 2**20)
    ]
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
    png = {b"iCCP": b"x\0\0" + zlib.compress(bytes(99)), b"eXIf": exif, b"acTL": bytes(8), b"fcTL": bytes(26)}
    jpeg = {0xE1: b"Exif\0\0" + exif, 0xDD: b"\0\1", 0xC2: b"\x08\0<\0<\1\1\x11\0", 0xDA: b"\1\1\0\0\x3f\0"}
    gif = [b"!\xfe\x02xx\0", b"!\xf9\4\x0d\0\0\0\0", b",\0\0\0\0\xff\xff\xff\xff\0\x08\1\0\0"]
    webp = [name + struct.pack("<I", 10) + bytes(10) for name in (b"VP8X", b"ANIM", b"ANMF", b"ALPH")]
    return [
        *(b"", b"#x\n", b"P2", b"P4", b"Pf", *packed, *entries, *gif, *webp),
        *(png_chunk(kind, part) for kind, part in png.items()),
        *(struct.pack(">BBH", 0xFF, marker, 2 + len(part)) + part for marker, part in jpeg.items()),
    ]


def with_checksums(png: bytes) -> bytes:
    """A PNG file with the checksums that its chunks should have, so far as it has chunks."""
    mended, place = png[:8], 8
    while place + 8 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        mended += png[place:end] + struct.pack(">I", zlib.crc32(png[place + 4 : end]))
        place = end + 4
    return mended


def mnist_pickles(canary: Path) -> Named:
    """What is not the original's, unpacked."""
    for name, value in code_in_pickles(canary):
        yield name, b"\x80\x02" + value + b"."
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85tR"
    kind = called("numpy.dtype", text("f4"), b"K\0", b"K\x01")
    for name, value in {
        "a memo of 4 billion": b"Nr\xff\xff\xff\xff",
        "a key without end": DOUBLING + b"}h\0Ns",
        "a type without end": DOUBLING + b"cnumpy\ndtype\nh\0\x85R",
        "another type of float": kind + many(b"K\x03", text(">"), b"NNN", b"J\xff\xff\xff\xff" * 2, b"K\0") + b"b",
        "marks": b"(" * 10**7,
        "a text of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 2**63": b"\x8e" + b"\xff" * 8,
        "a bytearray of 200 MB, often": (b"\x96" + struct.pack("<Q", 2 * 10**8)) * 50,
        "an array of 2**62": array + many(b"K\x01", many(number(2**62)), kind, b"\x89", text("x" * 8)) + b"b",
        "an array that overflows": array + many(b"K\x01", many(*[number(2**32)] * 2), kind, b"\x89", text("")) + b"b",
        "an array of objects": array
        + many(b"K\x01", b"K\x01\x85", called("numpy.dtype", text("O")), b"\x89]Na")
        + b"b",
        "thousands of arrays": b"(" + (array + b"K\0b") * 20_000 + b"t",
        "an integer of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "an endless name": b"c" + b"x" * 10**7,
    }.items():
        yield name, b"\x80\x02" + value + b"."
