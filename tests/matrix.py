"""Archives of generated files, shared by dicom_matrix/generate.py and jpeg_matrix/generate.py."""

import gzip
import io
import tarfile
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent / "fixtures"


def write_archive(path, members):
    """Write a tar.gz with fixed times and owners, in the order of the members."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    path.write_bytes(gzip.compress(archive.getvalue(), 9, mtime=0))


def compare(folder, name):
    """Compare the table and the archive called name in the folder with the committed ones: 1 on a difference."""
    different = []
    if (folder / f"{name}.csv").read_bytes() != (FIXTURES / f"{name}.csv").read_bytes():
        different.append(f"{name}.csv")
    old, new = read_archive(FIXTURES / f"{name}.tar.gz"), read_archive(folder / f"{name}.tar.gz")
    different += sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    for name in different:
        print(f"differs: {name}")
    return 1 if different else 0


def read_archive(path):
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}
