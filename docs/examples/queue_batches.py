"""Hand encrypted batches from one thread to another through a queue.

Usage: python queue_batches.py KEYREF
"""

import queue
import sys
import threading

import pyarrow.parquet as pq

import pipecrypt as pc


def produce(channel: queue.Queue[bytes | None], policy: pc.Policy) -> None:
    """Put each batch of people.parquet into the channel, encrypted; then None."""
    with pq.ParquetFile("people.parquet") as people:
        for batch in people.iter_batches(batch_size=2):
            channel.put(pc.encrypt_bytes(batch, policy))
    channel.put(None)


def main() -> None:
    """Count what arrives."""
    key = sys.argv[1]
    channel: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
    threading.Thread(target=produce, args=(channel, pc.Policy(default=key))).start()
    messages = rows = 0
    while (data := channel.get()) is not None:
        batch = pc.decrypt_bytes(data, [key], require=["*"])
        messages, rows = messages + 1, rows + batch.num_rows
    print(f"{messages} messages, {rows} rows, {', '.join(batch.schema.names)}")


if __name__ == "__main__":
    main()
