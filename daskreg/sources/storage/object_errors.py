"""Errors of object stores as those of daskreg, with a URL and a remedy, without credentials.

obstore raises one type for most failures. What happened is in its text: the status of the answer, and the code that
the store gave.
"""

from __future__ import annotations

import errno
import re

from daskreg.errors import NoBucketError, StorageFullError, StoreError, StoreForbiddenError
from daskreg.runtime.messages import reason

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist", re.IGNORECASE)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME",
}
_METADATA_SERVERS = ("169.254.169.254", "metadata.google.internal", "169.254.170.2")
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "StorageFull")
_FORBIDDEN = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_REDIRECTS = range(300, 400)
_AGAIN = (408, 425, 429)
_NOT_IMPLEMENTED = 501


class BusyStoreError(OSError):
    """A request that another attempt may fulfil: no answer, or one that asks for patience (`answered`)."""

    answered = False


def is_missing(error: Exception) -> bool:
    """Whether an error says that there is no such key, in a bucket that is there."""
    return isinstance(error, FileNotFoundError) and not _NO_BUCKET.search(str(error))


def translated(error: Exception, url: str) -> OSError:
    """The error of a request, as one of ours: `BusyStoreError` where it is to be tried again.

    Args:
        url: of the key, without credentials.
    """
    text = str(error).partition("Debug source")[0]
    found, code = _STATUS.search(text), _CODE.search(text)
    status, name = int(found[1]) if found else 0, code[1] if code else type(error).__name__
    kind = type(error).__name__
    if _NO_BUCKET.search(text):
        return NoBucketError(f"{url}: the bucket does not exist: make it first, or correct the URL")
    if any(server in str(error) for server in _METADATA_SERVERS):
        return StoreForbiddenError(
            f"{url}: no credentials were found: set those of the store in the environment ({_variable(url)}, ...), or "
            "give storage_options=; for a public bucket storage_options={'skip_signature': True}"
        )
    if status in (401, 403) or name in _FORBIDDEN or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return StoreForbiddenError(
            f"{url} is forbidden ({name}): look at the credentials of this process and at what they allow; what is "
            "finished is kept, and the same command resumes"
        )
    if status == 507 or name in _FULL:
        return StorageFullError(
            errno.ENOSPC,
            f"no space left in the store of {url} ({name}): finished blocks are kept; make room or raise "
            "the quota, and run the same command again to resume",
        )
    if status in _REDIRECTS or "redirect" in text:
        return StoreError(f"{url} is in another region ({name}): give storage_options={{'region': ...}} or AWS_REGION")
    if (status >= 500 and status != _NOT_IMPLEMENTED) or status in _AGAIN or (not status and kind == "GenericError"):
        busy = BusyStoreError(errno.EIO, f"{name}, status {status}" if status else _short(text), url)
        busy.answered = status > 0
        return busy
    return StoreError(f"{url}: the store refuses the request ({name}, status {status or 'unknown'})")


def _short(text: str) -> str:
    return reason(ValueError(text.rpartition(" - ")[2] or text))


def _variable(url: str) -> str:
    """The first environment variable that the client of a store looks for."""
    scheme = url.partition("://")[0].lower()
    return next((name for prefix, name in _CREDENTIALS.items() if scheme.startswith(prefix)), _CREDENTIALS["az"])
