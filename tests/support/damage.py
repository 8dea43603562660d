"""The damage that a power cut can do to a file that was not synced."""

from collections.abc import Callable

PAGE = 4096

Damage = Callable[[bytes], bytes]


def cut(size: int) -> Damage:
    """Keep the first `size` bytes, as if the others had not reached the disk."""
    return lambda data: data[:size]


def hole(page: int) -> Damage:
    """Fill one page with zeros; a number beyond the last page counts on from the first."""

    def damage(data: bytes) -> bytes:
        pages = [data[start : start + PAGE] for start in range(0, len(data), PAGE)]
        page_size = len(pages[page % len(pages)])
        pages[page % len(pages)] = bytes(page_size)
        return b"".join(pages)

    return damage


DAMAGES: dict[str, Damage] = {
    "empty": cut(0),
    "within the header": cut(11),
    "only the header": cut(16),
    "one byte more": cut(17),
    "half": lambda data: data[: len(data) // 2],
    "without the last byte": cut(-1),
    "zeros": lambda data: bytes(len(data)),
    "first page": hole(0),
    "last page": hole(-1),
    "second page": hole(1),
    "third page": hole(2),
}
