"""A second reader of sealed bundles, written from docs/spec/bundle.md. Usage: read_bundle.py BUNDLE CONTENT_KEY_HEX

Prints one line a recipient, then one line a file: size, SHA-256, name. The content key comes from `age -d keys/x25519.age`.
"""
import hashlib, hmac, json, struct, sys
from pathlib import Path
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"coffer-bundle 1"


def hkdf(key, info, length):
    return hmac.new(key, info + b"\x01", "sha384").digest()[:length]


def floe(key, aad, stream):
    """Opens a whole FLOE stream (c2sp.org/FLOE); gives its IV and plaintext."""
    params, iv, tag, body = stream[:10], stream[10:42], stream[42:74], stream[74:]
    (segment_length,) = struct.unpack(">I", params[2:6])
    assert params == b"\0\0" + struct.pack(">II", segment_length, 32)
    derive = lambda k, purpose, n: hkdf(k, params + iv + purpose + aad, n)
    assert hmac.compare_digest(tag, derive(key, b"HEADER_TAG:", 32)), "header"
    message_key = derive(key, b"MESSAGE_KEY:", 48)
    plain, count = b"", max(1, -(-len(body) // segment_length))
    for i in range(count):
        segment, last = body[i * segment_length : (i + 1) * segment_length], i == count - 1
        assert segment[:4] == struct.pack(">I", len(segment) if last else 0xFFFFFFFF)
        cipher = AESGCM(derive(message_key, b"DEK:" + struct.pack(">Q", i >> 20 << 20), 32))
        plain += cipher.decrypt(segment[4:16], segment[16:], struct.pack(">QB", i, last))
    return iv, plain


def key_files_mac(key, ident, folder):
    data = ident
    for path in sorted(folder.iterdir(), key=lambda p: p.name.encode()):
        if path.name != "mac":
            for part in (path.name.encode(), path.read_bytes()):
                data += struct.pack(">Q", len(part)) + part
    return hmac.new(hkdf(key, MAGIC + b" keys", 32), data, "sha384").digest()[:32]


def main(bundle, key):
    first, second = (bundle / "coffer.bundle").read_bytes().splitlines()
    assert first == MAGIC and sorted(p.name for p in bundle.iterdir()) == ["coffer.bundle", "data", "keys", "manifest"]
    ident = bytes.fromhex(second.removeprefix(b"id ").decode())
    assert (bundle / "keys/mac").read_bytes() == key_files_mac(key, ident, bundle / "keys")
    recipients = floe(hkdf(key, MAGIC + b" recipients", 32), MAGIC + ident + b"keys/recipients", (bundle / "keys/recipients").read_bytes())[1]
    for recipient in json.loads(recipients)["recipients"]:
        print(recipient["key"], *["recovery"] * recipient.get("recovery", False))
    stream_key = hkdf(key, MAGIC + b" stream", 32)
    manifest = json.loads(floe(stream_key, MAGIC + ident + b"manifest", (bundle / "manifest").read_bytes())[1])
    iv, data = floe(stream_key, MAGIC + ident + b"data", (bundle / "data").read_bytes())
    assert iv.hex() == manifest["data"]["iv"] and len(data) == manifest["data"]["length"]
    assert manifest["epoch"] >= 1 and len(bytes.fromhex(manifest["lineage"])) == 16
    at = 0
    for file in manifest["files"]:
        content = data[at : at + file["size"]]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        print(len(content), file["sha256"], file["name"])
        at += file["size"]
    for file in manifest["files"]:
        if index := file.get("records"):
            assert index["at"] == at and index["size"] % 16 == 0
            at += index["size"]
    assert not any(data[at:])


main(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))
