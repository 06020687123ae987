# Parquet files in the Hugging Face layout, written by pyarrow (25.0.1) with Pillow's pictures: python make_parquet.py
# Row i holds a 6 × 4 PNG of the plain colour (i, 2i, 3i) and captions that name i.
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(i):
    out = io.BytesIO()
    Image.new("RGB", (6, 4), (i, 2 * i, 3 * i)).save(out, "png")
    return out.getvalue()


def images(rows):
    return pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in rows], IMAGE)


def write(name, columns, **options):
    pq.write_table(pa.table(columns), os.path.join(HERE, name), **options)


def texts(rows):
    return pa.array([f"number {i}" for i in rows], pa.string())


# several row groups, several pages per group
write("snappy.parquet", {"image": images(range(30)), "text": texts(range(30)), "n": pa.array(range(30))},
      row_group_size=12, data_page_size=200, write_batch_size=2, use_dictionary=False)
# dictionary pages for captions and for pictures that repeat; everything required
repeated = [i % 3 for i in range(20)]
fields = pa.schema([pa.field("picture", pa.binary(), nullable=False), pa.field("caption", pa.string(), nullable=False)])
pq.write_table(pa.table([pa.array([png(i) for i in repeated], pa.binary()), texts(repeated)], schema=fields),
               os.path.join(HERE, "dictionary.parquet"), compression="none", data_page_size=64, write_batch_size=5)
# lists of captions, second page version, page index
lists = [[f"number {i}", f"a picture of {i}"][: 1 + i % 2] for i in range(10)]
lists[4], lists[5] = None, []
write("lists.parquet", {"image": images(range(10)), "captions": pa.array(lists, pa.list_(pa.string()))},
      compression="zstd", data_page_version="2.0", row_group_size=4, write_page_index=True, data_page_size=100, write_batch_size=1)
# missing pictures and captions, pictures as files
rows = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "pictures/1.png"}, {"bytes": None, "path": "../2.png"},
        {"bytes": None, "path": None}, None, {"bytes": b"", "path": "5.png"}, {"bytes": b"no picture", "path": None}, {"bytes": png(7), "path": None}]
write("missing.parquet", {"image": pa.array(rows, IMAGE), "text": pa.array([f"number {i}" if i < 7 else None for i in range(8)])}, compression="gzip")
write("types.parquet", {"image": pa.array(["a.png"]), "number": pa.array([1]), "numbers": pa.array([[1]]), "binary": pa.array([png(0)], pa.binary()), "text": texts([0])})
write("empty.parquet", {"image": pa.array([], IMAGE), "text": pa.array([], pa.string())})
# pages and dictionaries of more than a megabyte: what follows a PNG's end is not read
def padded(i):
    return None if i is None else {"bytes": png(i) + bytes(200_000), "path": None}


large = [0, 1, 2, 3, None, 4, 5, 6, 7, 0, 1]
columns = {"image": pa.array([padded(i) for i in large], IMAGE), "text": texts([i or 0 for i in large])}
write("large_plain.parquet", columns, compression="zstd", use_dictionary=False)
write("large_dictionary.parquet", columns, compression="zstd")
# blocks of Snappy, in hexadecimal
blocks = {"nothing": b"", "zeros": bytes(1000), "ab": b"ab" * 300, "text": b"the quick brown fox jumps over the lazy dog; the lazy dog sleeps. " * 40,
          "counted": b"".join(i.to_bytes(4, "little") for i in range(700)), "literal": bytes((i * i * 7919 >> 3) & 255 for i in range(300)),
          "far": bytes((i * i * 7919 >> 3) & 255 for i in range(5000)) * 2}
with open(os.path.join(HERE, "snappy.json"), "w") as f:
    json.dump([{"name": k, "data": v.hex(), "block": pa.compress(v, "snappy", asbytes=True).hex()} for k, v in blocks.items()], f, indent=1)
