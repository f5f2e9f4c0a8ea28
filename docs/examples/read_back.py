"""Read an encrypted lineitem back with plain pyarrow: two columns of some rows, and the first comment.

Usage: python read_back.py FILE KEYREF...
"""

import sys
from datetime import date
from decimal import Decimal

import pyarrow.compute as pc
import pyarrow.parquet as pq

import pipecrypt


def main() -> None:
    """Print the discount that TPC-H's query 6 asks for."""
    path, *keys = sys.argv[1:]
    properties = pipecrypt.decryption_properties(keys=keys)
    prices = pq.read_table(
        path,
        columns=["l_extendedprice", "l_discount"],
        filters=[
            ("l_shipdate", ">=", date(1994, 1, 1)),
            ("l_shipdate", "<", date(1995, 1, 1)),
            ("l_discount", ">=", Decimal("0.05")),
            ("l_discount", "<=", Decimal("0.07")),
            ("l_quantity", "<", Decimal("24.00")),
        ],
        decryption_properties=properties,
    )
    discounts = pc.sum(pc.multiply(prices["l_extendedprice"], prices["l_discount"])).as_py()
    print(f"TPC-H query 6 reads {prices.num_rows:,} rows; their discounts add up to {discounts:,.2f}")

    with pq.ParquetFile(path, decryption_properties=properties) as file:
        comments = file.read_row_group(0, columns=["l_comment"])["l_comment"]
    print(f"the first comment: {comments[0]}")


if __name__ == "__main__":
    main()
