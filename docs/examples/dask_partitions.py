"""Write each partition of a Dask frame as an encrypted file, and read the files back through pipecrypt::.

Usage: python dask_partitions.py KEYREF
"""

import os
import sys

import dask.dataframe as dd
import pandas as pd

import pipecrypt as pc


def seal(frame: pd.DataFrame, policy: pc.Policy, partition_info: dict[str, int] | None = None) -> pd.DataFrame:
    """Write one partition, and return its name and its rows."""
    number = partition_info["number"] if partition_info else 0  # Dask gives it to a parameter of this name
    path = f"sealed/part-{number:05}.parquet"
    summary = pc.encrypt_batches(frame, path, policy)
    return pd.DataFrame({"path": [path], "rows": [summary.rows]})


def main() -> None:
    """Encrypt three partitions, each in whichever process it is, and count again."""
    key = sys.argv[1]
    people = dd.from_pandas(pd.read_parquet("people.parquet", columns=["id", "email"]), npartitions=3)
    policy = pc.Policy(columns={"email": key})
    parts = people.map_partitions(seal, policy, meta={"path": "str", "rows": "int64"})
    print(parts.compute(scheduler="processes").to_string(index=False))

    url = f"pipecrypt::file://{os.getcwd()}/sealed/*.parquet"
    back = dd.read_parquet(url, storage_options={"pipecrypt": {"keys": [key]}})
    print(f"{len(back)} rows, {back['email'].nunique().compute()} addresses")


if __name__ == "__main__":
    main()
