"""Fetching a file: it can be interrupted and resumed, and is checked before anyone reads it.

What has come so far is in a file NAME.part; it gets its name only when size and checksum are right.

`pooch` would check and show progress too, but it begins a broken download again from the start,
writes to the disk whatever a server sends without end, and brings `requests`.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from minitxl.data.checks import why
from minitxl.data.checksums import check_file
from minitxl.data.datasets import Dataset
from minitxl.errors import MinitxlError
from minitxl.files import replace
from minitxl.lock import locked

TIMEOUT = 30  # seconds without a byte
ANSWER = 60  # seconds for the head of an answer, however much of it comes meanwhile
SLOWEST = 100  # bytes a second, over so many seconds

_CHUNK = 1 << 18  # bytes read at once: little enough for a smooth progress bar


def download(dataset: Dataset, url: str | None = None) -> Path:
    """Fetch the archive of a data set into its folder and return its path.

    url: another place to get the same file from. A file that is there already is checked and used;
    one that is wrong is renamed to NAME.bad. What a broken connection or Ctrl-C leaves is
    continued the next time. MinitxlError if there is no network, no such file, another one than
    expected, or no room.
    """
    url = dataset.url if url is None else url
    path = dataset.archive
    part = path.with_name(f"{path.name}.part")
    by_hand = f"or put the file at {path}, or give its place as --from PATH"
    if path.is_file():
        _check(dataset, path, f"it is now {path.name}.bad; run the command again to fetch it")
        return path
    if not _is_http(url):
        raise MinitxlError(
            f"the address {url[:200]!r} must begin with http:// or https:// and have no spaces"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):  # of two that write to one file neither would come to an end
            _fetch(url, part, dataset, by_hand)
            _check(dataset, part, "it is now .bad; run the command again, maybe with another --url")
            replace(part, path)
    except urllib.error.HTTPError as error:
        raise MinitxlError(
            f"{url} answers {error.code} {_reason(error)}: give another address as --url, {by_hand}"
        ) from error
    except urllib.error.URLError as error:
        raise MinitxlError(
            f"cannot reach {url} ({_reason(error)}): run the command again with a network, "
            f"{by_hand}"
        ) from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise MinitxlError(
            f"the connection to {url} broke ({_reason(error)}): run the command again to go on, "
            f"{by_hand}"
        ) from error
    except MinitxlError:
        raise
    except ValueError as error:  # of an address that urllib cannot take apart
        raise MinitxlError(f"{url} cannot be fetched ({_reason(error)}): mend --url") from error
    except OSError as error:
        raise MinitxlError(
            f"cannot fetch {url} to {part} ({why(error)}): check the disk and the network, or set "
            "MINITXL_DATA to another folder, then run the command again to go on"
        ) from error
    return path


def _check(dataset: Dataset, path: Path, way_out: str) -> None:
    """Raise MinitxlError for the wrong file, after setting it aside."""
    try:
        check_file(path, dataset.n_bytes, dataset.checksum, way_out)
    except MinitxlError:
        replace(path, dataset.archive.with_name(f"{dataset.archive.name}.bad"))
        raise


def _fetch(url: str, part: Path, dataset: Dataset, by_hand: str) -> None:
    """Complete the file `part` from the server, from where it ends if the server can do that."""
    have = part.stat().st_size if part.exists() else 0
    if have and have == dataset.n_bytes:
        return
    limit = dataset.n_bytes or dataset.max_bytes
    response, have = _open(url, have)
    with response:
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total is not None and (total > limit or total != (dataset.n_bytes or total)):
            _refuse(url, part, f"{total:,} bytes", dataset, by_hand)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            bar.set_description(f"fetching {dataset.archive_name}")
            pace = _Pace()
            # read1: what has come so far, not a full block, for which a slow server takes days.
            while have <= limit and (block := response.read1(_CHUNK)):
                file.write(block)
                have += len(block)
                bar.update(len(block))
                pace.check(len(block))
    if have > limit:
        _refuse(url, part, f"more than {limit:,} bytes", dataset, by_hand)
    if total is not None and have < total:  # http.client does not tell
        raise http.client.HTTPException(f"after {have:,} of {total:,} bytes")


class _Pace:
    """Gives up on a server that sends a few bytes now and then, without end."""

    def __init__(self):
        self._since, self._n_bytes = time.monotonic(), 0

    def check(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        seconds = time.monotonic() - self._since
        if seconds > TIMEOUT:
            if self._n_bytes < SLOWEST * seconds:
                raise TimeoutError(
                    f"only {self._n_bytes:,} bytes in {seconds:.0f} s, at least {SLOWEST:,} a "
                    "second are waited for"
                )
            self._since, self._n_bytes = time.monotonic(), 0


def _refuse(url: str, part: Path, size: str, dataset: Dataset, by_hand: str) -> NoReturn:
    """Raise MinitxlError for a file of the wrong size, and remove what there is of it."""
    part.unlink(missing_ok=True)
    known = dataset.n_bytes
    expected = f"{known:,} are expected" if known else f"at most {dataset.max_bytes:,} are expected"
    raise MinitxlError(f"{url} sends {size}, {expected}: give another address as --url, {by_hand}")


def _open(url: str, have: int):
    """Ask for the file from byte `have` on; return (response, its first byte): `have` or 0."""
    opener = urllib.request.build_opener(_OnlyHttp, *_HANDLERS)
    headers = {"User-Agent": "minitxl", "Accept-Encoding": "identity"}
    if have:
        ranged = urllib.request.Request(url, headers={**headers, "Range": f"bytes={have}-"})
        try:
            response = opener.open(ranged, timeout=TIMEOUT)
            if response.status == http.client.OK:  # a server that only knows whole files
                return response, 0
            if _first_byte(response) == have:
                return response, have
            response.close()
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()  # what we have is as long as theirs or longer, so it is something else
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT), 0


def _first_byte(response) -> int | None:
    """Return where a partial answer starts: 5 for Content-Range: bytes 5-9/10."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


class _Timed(io.RawIOBase):
    """What a socket sends, up to a moment (None: without an end); a drop now and then is no help.

    A socket's own timeout begins anew with each byte.
    """

    def __init__(self, raw: io.RawIOBase):
        self._raw, self.until = raw, time.monotonic() + ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if self.until is not None and time.monotonic() > self.until:
            raise TimeoutError(f"no whole answer in {ANSWER} s")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head comes in time; its body has a pace of its own."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._timed = _Timed(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.until = None


class _InTime:
    def do_open(self, http_class, request, **options):
        def connection(*args, **settings):
            made = http_class(*args, **settings)
            made.response_class = _Response
            return made

        return super().do_open(connection, request, **options)


# A Python without ssl, such as a browser's, has no handler of https.
_HANDLERS = [
    type(f"_{name}", (_InTime, getattr(urllib.request, name)), {})
    for name in ("HTTPHandler", "HTTPSHandler")
    if hasattr(urllib.request, name)
]


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows no server to ftp: or elsewhere."""

    def redirect_request(self, request, file, code, message, headers, url):
        if not _is_http(url):
            raise urllib.error.URLError(f"it leads to {url[:200]!r}, neither http nor https")
        return super().redirect_request(request, file, code, message, headers, url)


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://")) and url.split() == [url]


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    text = why(reason) if isinstance(reason, Exception) else str(reason)
    return " ".join(text.split())[:200] or type(error).__name__
