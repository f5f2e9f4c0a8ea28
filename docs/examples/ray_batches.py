"""Encrypt a Ray dataset batch by batch with map_batches, so that object store and spilled files hold bytes only.

Usage: python ray_batches.py KEYREF
"""

import sys

import pyarrow as pa
import ray

import pipecrypt as pc


def seal(table: pa.Table, key: str) -> pa.Table:
    """Return one row of bytes."""
    return pa.table({"sealed": pa.array([pc.encrypt_bytes(table, pc.Policy(default=key))], pa.large_binary())})


def unseal(table: pa.Table, key: str) -> pa.Table:
    """Return the rows."""
    return pa.Table.from_batches([pc.decrypt_bytes(data.as_py(), [key], require=["*"]) for data in table["sealed"]])


def main() -> None:
    """Encrypt people.parquet, keep it encrypted, and read it back."""
    key = sys.argv[1]
    ray.init(num_cpus=1, include_dashboard=False)
    people = ray.data.read_parquet("people.parquet")
    sealed = people.map_batches(seal, batch_format="pyarrow", fn_kwargs={"key": key}).materialize()
    back = sealed.map_batches(unseal, batch_format="pyarrow", fn_kwargs={"key": key})
    names = sealed.schema().names
    print(f"{', '.join(names)}: {back.count()} rows, the ids add up to {back.sum('id')}")


if __name__ == "__main__":
    main()
