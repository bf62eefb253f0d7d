"""Runs a container, reads what it prints through a pipe, and tells its exit status.

    python run_and_wait.py [COMMAND ARGUMENT...]     (of busybox; default: a shell that exits with 7)
"""

from __future__ import annotations

import os
import sys

from _bundle import bundle

from ocipy import Container, Error
from ocipy.container.prepare import CreateOptions


def main() -> int:
    command = sys.argv[1:] or ["sh", "-c", "echo hello from $(busybox hostname); exit 7"]
    reader, writer = os.pipe()
    with bundle(*command) as box:
        try:
            with Container.run("example-run", box, options=CreateOptions(stdio=(0, writer, 2))) as container:
                os.close(writer)
                with open(reader) as output:
                    for line in output:
                        print("container:", line, end="")
                print("exit status:", container.wait())
        except Error as error:
            print(f"{error.code} at {error.config_path or 'no place in the config'}: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
