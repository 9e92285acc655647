# Copyright (C) The ngx_vd_module authors

"""An ext4 image on a loop device, whose power can be cut."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from edge import Failed

# <linux/fs.h> and <fs/ext4/ext4.h>: nothing that is in memory yet reaches the
# image, not even the file system's own journal.
EXT4_IOC_SHUTDOWN = 0x8004587D
GOING_FLAGS_NOLOGFLUSH = 2

SIZE = 256 << 20


class Disk:
    def __init__(self, directory: Path, mounted: Path) -> None:
        self.image = directory / "image"
        self.mounted = mounted

    def make(self) -> None:
        if os.geteuid() != 0:
            raise Failed("cutting the power takes root, who may mount")
        with self.image.open("wb") as image:
            image.truncate(SIZE)
        command("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        command("mount", "-t", "ext4", "-o", "loop", str(self.image), str(self.mounted))

    def cut(self) -> None:
        fd = os.open(self.mounted, os.O_RDONLY)
        try:
            flags = struct.pack("I", GOING_FLAGS_NOLOGFLUSH)
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, flags)
        finally:
            os.close(fd)

    def remount(self) -> None:
        """The file system replays its journal, as after any power cut."""
        command("umount", str(self.mounted))
        self.mount()

    def empty(self) -> None:
        for path in self.mounted.iterdir():
            if path.is_file():
                path.unlink()

    def remove(self) -> None:
        if self.mounted.is_mount():
            command("umount", str(self.mounted))


def command(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Failed(f"{words[0]}: {ran.stderr.strip()}")
