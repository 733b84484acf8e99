"""parquet_rows.py FOLDER ROWS: writes the same ROWS rows as Parquet files of several kinds, and beside them rows.jsonl with what they
are in JSON, made from the Python values."""
import datetime
import decimal
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

folder, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2])
START = datetime.datetime(2001, 2, 3, 4, 5, 6)
SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("text", pa.string()),
    ("score", pa.float64()),
    ("half", pa.float32()),
    ("good", pa.bool_()),
    ("tags", pa.list_(pa.string())),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("meta", pa.struct([("year", pa.int32()), ("source", pa.struct([("url", pa.string())]))])),
    ("grid", pa.list_(pa.list_(pa.int16()))),
    ("counts", pa.map_(pa.string(), pa.int32())),
    ("when", pa.timestamp("ms")),
    ("day", pa.date32()),
    ("price", pa.decimal128(9, 2)),
    ("raw", pa.binary()),
    ("unsigned", pa.uint32()),
])


def row(i):
    return {
        "id": i * 1_000_003,
        "text": None if i % 11 == 3 else f"row {i}: “naïve” \\ \n\t" + "word " * (i % 90),
        "score": None if i % 7 == 1 else i / 7,
        "half": i * 0.5,
        "good": None if i % 5 == 4 else i % 2 == 0,
        "tags": None if i % 13 == 2 else [None if (i + k) % 6 == 5 else f"tag {k}" for k in range(i % 4)],
        "turns": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": None}][: i % 3],
        "meta": None if i % 9 == 8 else {"year": 1800 + i % 100, "source": None if i % 4 else {"url": f"https://host/{i}"}},
        "grid": [[k] * (k % 3) for k in range(i % 5)],
        "counts": [(f"k{k}", None if k == 2 else i + k) for k in range(i % 4)],
        "when": START + datetime.timedelta(milliseconds=i * 86_399_999),
        "day": START.date() + datetime.timedelta(days=i),
        "price": None if i % 10 == 0 else decimal.Decimal(i * 37 - 5) / 100,
        "raw": bytes([i % 256, 255, 0]),
        "unsigned": 2**32 - 1 - i,
    }


def plain(value):
    """A value in JSON: bytes in hexadecimal, times as text, decimals as numbers; the pairs of a map are an object."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        pairs = value and all(isinstance(item, tuple) for item in value)
        return {key: plain(item) for key, item in value} if pairs else [plain(item) for item in value]
    return value


def json_of(values):
    out = {key: plain(value) for key, value in values.items()}
    return json.dumps(out | {"counts": out["counts"] or {}}, ensure_ascii=False)


values = [row(i) for i in range(rows)]
table = pa.Table.from_pylist(values, SCHEMA)
third = max(1, rows // 3)
variants = {
    "snappy": {"compression": "snappy", "row_group_size": third},
    "zstd-v2": {"compression": "zstd", "data_page_version": "2.0", "data_page_size": 700, "write_page_index": True},
    "index": {"compression": "lz4", "data_page_size": 700, "write_page_index": True, "row_group_size": third},
    "gzip": {"compression": "gzip", "use_dictionary": False, "data_page_size": 700},
    "plain": {"compression": "none", "row_group_size": third, "column_encoding": {"id": "DELTA_BINARY_PACKED"}, "use_dictionary": ["text"]},
}
for name, options in variants.items():
    pq.write_table(table, folder / f"{name}.parquet", **options)
(folder / "rows.jsonl").write_text("".join(json_of(value) + "\n" for value in values))
