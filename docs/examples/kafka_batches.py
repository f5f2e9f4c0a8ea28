"""Send encrypted batches through Kafka, with confluent-kafka's serializers.

Usage: python kafka_batches.py SERVERS KEYREF
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import DeserializingConsumer, SerializingProducer
from confluent_kafka.serialization import SerializationContext

import pipecrypt as pc

TOPIC = "people"


def send(servers: str, policy: pc.Policy) -> None:
    """Send each batch of people.parquet as one message."""

    def seal(batch: pa.RecordBatch, context: SerializationContext) -> bytes:
        return pc.encrypt_bytes(batch, policy)

    producer = SerializingProducer({"bootstrap.servers": servers, "value.serializer": seal})
    with pq.ParquetFile("people.parquet") as people:
        for batch in people.iter_batches(batch_size=2):
            producer.produce(TOPIC, value=batch)
    producer.flush()


def receive(servers: str, keys: list[str], rows: int) -> list[pa.RecordBatch]:
    """Return the batches that have arrived, once they have so many rows."""

    def unseal(data: bytes, context: SerializationContext) -> pa.RecordBatch:
        return pc.decrypt_bytes(data, keys, require=["*"])

    settings = {"bootstrap.servers": servers, "group.id": "readers", "auto.offset.reset": "earliest"}
    consumer = DeserializingConsumer({**settings, "value.deserializer": unseal})
    consumer.subscribe([TOPIC])
    batches: list[pa.RecordBatch] = []
    while sum(batch.num_rows for batch in batches) < rows:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            batches.append(message.value())
    consumer.close()
    return batches


def main() -> None:
    """Send a small table and count what arrives."""
    servers, key = sys.argv[1:]
    send(servers, pc.Policy(default=key))
    batches = receive(servers, [key], rows=6)
    print(f"{len(batches)} messages, {sum(batch.num_rows for batch in batches)} rows")


if __name__ == "__main__":
    main()
