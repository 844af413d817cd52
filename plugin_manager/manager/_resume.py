"""Whether what was begun can go on, and from where."""

from __future__ import annotations

from plugin_manager.errors import (
    CorruptError,
    InvalidInputError,
    PluginManagerError,
    RefusedError,
    UntrustedError,
)
from plugin_manager.manager._job import ResumeStatus, Resumption
from plugin_manager.model import Digest, size_text
from plugin_manager.store import Active, Store
from plugin_manager.trust import Trust

__all__ = ["resume_status"]


def resume_status(store: Store, trust: Trust, tag: str, digest: Digest) -> ResumeStatus:
    """What going on with the release whose head is `digest` would do; hashes what is staged."""
    try:
        head = store.head(digest)
    except (CorruptError, InvalidInputError):
        why = "its manifest is not on this disk: what it is the repository has to tell"
        return ResumeStatus(None, digest, Resumption.UNKNOWN, 0, 0, why)
    release = head.manifest.release
    files = head.manifest.files_for(tag)
    if store.has(Active(release, digest)):
        total = sum(file.size for file in files)
        why = "it is on this disk, whole"
        return ResumeStatus(release, digest, Resumption.COMPLETE, total, 0, why)
    needed = store.needed(head, files)
    kept = needed.copy_bytes + needed.share_bytes + store.staged_bytes(head, files)
    fetch = needed.fetch_bytes
    try:
        vouching = trust.local()
        vouching.vouch(release, store.head_bytes(digest))
    except (UntrustedError, RefusedError) as error:
        return ResumeStatus(release, digest, Resumption.NOT_RESUMABLE, kept, 0, error.message)
    except PluginManagerError as error:
        return ResumeStatus(release, digest, Resumption.UNKNOWN, kept, fetch, error.message)
    why = f"{size_text(kept)} are on this disk and hash right, {size_text(fetch)} are to be fetched"
    return ResumeStatus(release, digest, Resumption.RESUMABLE, kept, fetch, why)
