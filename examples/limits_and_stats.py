"""Runs a container under a memory limit, looks at its usage, changes the limit while it runs, and pauses it."""

from __future__ import annotations

from _bundle import bundle

from ocipy import Container

MIB = 1 << 20


def main() -> None:
    with (
        bundle("sleep", "60", memory={"limit": 64 * MIB}, pids={"limit": 20}) as box,
        Container.run("example-limits", box) as container,
    ):
        memory = container.stats()["memory"]["usage"]
        print(f"uses {memory['usage'] // 1024} KiB of {memory['limit'] // MIB} MiB")
        container.update({"memory": {"limit": 32 * MIB, "swap": 32 * MIB}})
        print(f"limit now {container.stats()['memory']['usage']['limit'] // MIB} MiB")
        container.pause()
        print("status:", container.status)
        container.resume()
        print("status:", container.status, "processes:", len(container.pids()))
        print("exec:", container.exec(["busybox", "true"]).wait())


if __name__ == "__main__":
    main()
