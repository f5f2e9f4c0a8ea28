"""Write people.parquet, the small table that the documentation's examples use.

Usage: python make_people.py [FILE]
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

PEOPLE = pa.table(
    {
        "id": pa.array(range(1, 7), pa.int64()),
        "email": [f"person{n}@example.org" for n in range(1, 7)],
        "customer": [{"city": city, "zip": f"0{n}00"} for n, city in enumerate(["Oslo", "Bergen", "Tromsø"] * 2)],
    }
)

if __name__ == "__main__":
    pq.write_table(PEOPLE, sys.argv[1] if len(sys.argv) > 1 else "people.parquet", row_group_size=3)
