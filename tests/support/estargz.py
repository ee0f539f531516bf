#!/usr/bin/env python3
"""estargz.py BLOB TOC-DIGEST: reads an eStargz layer as its specification says
(docs/estargz.md of the stargz snapshotter), with Python's own gzip, tar and JSON alone, and fails
unless everything in it is as it should be. Prints how many files and chunks it read."""
import hashlib, json, sys, tarfile, io, zlib

blob = open(sys.argv[1], "rb").read()
sha = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()


def member(offset):
    """The bytes of the gzip member that begins there, and where it ends."""
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    data = decoder.decompress(blob[offset:])
    assert decoder.eof, f"no gzip member at {offset}"
    return data, len(blob) - len(decoder.unused_data)


footer = blob[-51:]
assert footer[:4] == b"\x1f\x8b\x08\x04", "the footer has an extra field"
assert footer[10:16] == b"\x1a\x00SG\x16\x00" and footer[32:38] == b"STARGZ"
assert footer[38:43] == b"\x01\x00\x00\xff\xff" and footer[43:] == bytes(8)
start = int(footer[16:32], 16)
table, end = member(start)
assert end == len(blob) - 51, "the footer follows the table"
with tarfile.open(fileobj=io.BytesIO(table)) as tar:
    (only,) = tar.getmembers()
    assert only.name == "stargz.index.json"
    table = tar.extractfile(only).read()
assert sha(table) == sys.argv[2], "the digest of the table is the annotation"
table = json.loads(table)
assert table["version"] == 1

# The members, one after the other.
starts, whole, at = set(), [], 0
while at < start:
    starts.add(at)
    data, at = member(at)
    whole.append(data)
assert at == start
whole = b"".join(whole)
# ignore_zeros: what stands behind the end of the tar counts too.
with tarfile.open(fileobj=io.BytesIO(whole), ignore_zeros=True) as tar:
    headers = {m.name.rstrip("/"): m for m in tar.getmembers()}
    names = [m.name.rstrip("/") for m in tar.getmembers()]

kinds = {"dir": "isdir", "reg": "isreg", "symlink": "issym", "hardlink": "islnk", "char": "ischr",
         "block": "isblk", "fifo": "isfifo"}
files, chunks, landmark, seen = {}, 0, False, []
for entry in table["entries"]:
    name = entry["name"].rstrip("/")
    if entry["type"] != "chunk":
        header = headers[name]
        seen.append(name)
        assert getattr(header, kinds[entry["type"]])(), name
        assert (entry.get("mode", 0), entry.get("uid", 0), entry.get("gid", 0)) == (
            header.mode, header.uid, header.gid), name
        assert entry.get("linkName", "") == header.linkname, name
        files[name] = [header.size, b"", entry.get("digest")]
        landmark |= name in (".prefetch.landmark", ".no.prefetch.landmark")
        if not entry.get("size"):
            continue
        assert entry["size"] == header.size
    file = files[name]
    assert entry.get("chunkOffset", 0) == len(file[1]), name
    assert entry["offset"] in starts, f"{name}: a chunk begins a member"
    length = entry.get("chunkSize") or file[0] - len(file[1])
    data = member(entry["offset"])[0][:length]
    assert len(data) == length and sha(data) == entry["chunkDigest"], name
    file[1] += data
    chunks += 1
assert seen == names, "the table has every entry in order"
for name, (size, data, digest) in files.items():
    if headers[name].isreg():
        assert len(data) == size and sha(data) == digest, name
assert landmark, "there is a landmark"
print(f"{len(files)} entries, {chunks} chunks")
