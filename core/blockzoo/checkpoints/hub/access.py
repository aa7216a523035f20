"""How the hub is asked, and what its refusals mean."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass

from blockzoo.checkpoints.hub.reference import Reference
from blockzoo.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """``token``: None for huggingface_hub's own places (HF_TOKEN, ``hf auth login``). ``offline``: the hub isn't asked.

    ``again``: verify what is there already too. ``say``: gets the lines that a user should see.
    """

    token: str | None = None
    offline: bool = False
    again: bool = False
    say: Callable[[str], None] = log.warning

    @property
    def is_offline(self) -> bool:
        from huggingface_hub import constants

        return self.offline or constants.HF_HUB_OFFLINE

    def headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=self.token)


def status_of(error: Exception) -> int | None:
    """The HTTP status that the hub answered with, or None where it did not answer."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def is_final(error: Exception) -> bool:
    """Whether asking again can't help: the hub understood and refused, or the disk is the trouble."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if isinstance(error, CheckpointError | HFValidationError | OfflineModeIsEnabled):
        return True
    status = status_of(error)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 416, 429)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def explained(error: Exception, place: Reference, access: Access) -> CheckpointError:
    """What went wrong and what to do, for any exception of huggingface_hub or its HTTP client."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, CheckpointError):
        return error
    page, status = f"{constants.ENDPOINT}/{place.repo}", status_of(error)
    if isinstance(error, GatedRepoError):
        why = f"is gated: accept its terms on {page}, then {_token_advice(access)}"
    elif isinstance(error, RevisionNotFoundError):
        why = f"has no revision '{place.revision}'; {page}/tree/main lists branches and tags"
    elif isinstance(error, RepositoryNotFoundError):
        why = f"is no folder here, and no repository on the hub, or a private one: then {_token_advice(access)}"
    elif status in (401, 403):
        why = f"the hub refuses access ({status}): {_token_advice(access)}"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "no space is left on the disk; what was downloaded is kept, run it again with more"
    else:
        reason = (str(error).strip() or "no reason given").split("\n")[0]
        why = (
            f"could not be had from the model hub ({type(error).__name__}: {reason}), and is no folder here either;"
            " give a local folder, or try again: what was downloaded is kept"
        )
    return CheckpointError(f"{place.repo}: {why}")


def _token_advice(access: Access) -> str:
    from huggingface_hub import get_token

    if access.token is not None or get_token() is not None:
        return "see that the token in use is valid and may read it (`hf auth whoami`; https://hf.co/settings/tokens)"
    return "log in by `hf auth login`, or set HF_TOKEN; no token was sent"
