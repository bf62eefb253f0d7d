"""Keeps several containers running from threads, and restarts each one that ends, a few times."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from _bundle import bundle

from ocipy import Bundle, Container

RESTARTS = 3


def supervise(name: str, box: Bundle) -> list[int | None]:
    """Run a container until it has ended ``RESTARTS`` times; its exit statuses."""
    codes = []
    for _ in range(RESTARTS):
        with Container.run(name, box) as container:
            codes.append(container.wait())
    return codes


def main() -> None:
    with bundle("sh", "-c", "exit $(($$ + 4))") as box, ThreadPoolExecutor(4) as pool:
        names = [f"example-worker-{number}" for number in range(4)]
        for name, codes in zip(names, pool.map(lambda name: supervise(name, box), names), strict=True):
            print(f"{name} ended {len(codes)} times, with {codes}")


if __name__ == "__main__":
    main()
