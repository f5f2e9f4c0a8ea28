"""Write frames of pandas, Polars and DuckDB to encrypted files, without a plaintext file between.

Usage: python frames.py KEYREF
"""

import sys

import duckdb
import pandas as pd
import polars as pl

import pipecrypt as pc


def main() -> None:
    """Write the same table four times."""
    policy = pc.Policy(columns={"email": sys.argv[1]})

    frame = pd.read_parquet("people.parquet")
    print(pc.encrypt_batches(frame, "sealed/pandas.parquet", policy).rows)

    table = pl.read_parquet("people.parquet")
    print(pc.encrypt_batches(table, "sealed/polars.parquet", policy).rows)

    lazy = pl.scan_parquet("people.parquet").filter(pl.col("id") > 2)
    print(pc.encrypt_batches(lazy.collect_batches(), "sealed/lazy.parquet", policy).rows)  # larger than memory

    relation = duckdb.sql("select * from 'people.parquet' where id > 4")
    print(pc.encrypt_batches(relation, "sealed/duckdb.parquet", policy).rows)  # a stream, too


if __name__ == "__main__":
    main()
