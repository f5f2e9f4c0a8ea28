"""Encrypt a Spark table batch by batch with mapInArrow, keep them as a column of bytes, and decrypt them.

Usage: python spark_batches.py KEYREF
"""

import sys
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

import pipecrypt as pc

Step = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def sealing(policy: pc.Policy) -> Step:
    """Return the step that makes one row of bytes of each batch."""

    def seal(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.record_batch({"rows": [batch.num_rows], "sealed": [pc.encrypt_bytes(batch, policy)]})

    return seal


def unsealing(keys: list[str]) -> Step:
    """Return the step back."""

    def unseal(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for data in batch["sealed"]:
                yield pc.decrypt_bytes(data.as_py(), keys, require=["*"])

    return unseal


def main() -> None:
    """Encrypt people.parquet into sealed/, and compare what comes back."""
    key = sys.argv[1]
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    people = spark.read.parquet("people.parquet")
    people.mapInArrow(sealing(pc.Policy(default=key)), "rows long, sealed binary").write.parquet("sealed")
    back = spark.read.parquet("sealed").mapInArrow(unsealing([key]), people.schema)
    same = back.orderBy("id").collect() == people.orderBy("id").collect()
    print(f"{back.count()} rows, {'the same' if same else 'others'}")


if __name__ == "__main__":
    main()
