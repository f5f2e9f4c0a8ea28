"""An ETL job: read batches, change them, write one encrypted file, which appears whole or not at all.

Usage: python etl_writer.py SOURCE SINK KEYREF
"""

import sys

import pyarrow as pa
import pyarrow.compute as pac
import pyarrow.parquet as pq

import pipecrypt as pc


def main() -> None:
    """Add the domain of each address, and encrypt both."""
    source, sink, key = sys.argv[1:]
    policy = pc.Policy(columns={"email": key, "domain": key}, batch_rows=50_000)
    with pq.ParquetFile(source) as people:
        schema = people.schema_arrow.append(pa.field("domain", pa.string()))
        with pc.ParquetWriter(sink, schema, policy) as writer:
            for batch in people.iter_batches(batch_size=10_000):
                domain = pac.replace_substring_regex(batch["email"], "^.*@", "")
                writer.write_batch(batch.append_column("domain", domain))
    print(f"{writer.summary.rows} rows, {writer.summary.data_keys} data keys")


if __name__ == "__main__":
    main()
