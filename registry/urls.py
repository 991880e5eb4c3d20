"""Addresses without the secrets in them: what may be stored, shown and printed.

In:  a URL as somebody wrote it.
Out: the same without user, password, query and fragment; and the same with what the environment
     holds in the place of `${NAME}`, for whoever opens it.
"""

import os
import re
from urllib.parse import urlsplit, urlunsplit

from registry.errors import Invalid

_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment, in which secrets travel.

    What is no URL with a server in it, such as `sqlite:///PATH`, comes back as it is.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        # An address with brackets that do not close, say.
        return url.partition("?")[0].rpartition("@")[2]
    if not parts.netloc:
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_secret(url: str) -> bool:
    """Say whether a password or a query is written into a URL with a server in it.

    A `${NAME}` in the place of either is none.
    """
    parts = urlsplit(_PLACEHOLDER.sub("", url))
    return bool(parts.netloc) and bool(parts.password or re.search("password=[^&]", parts.query))


def from_environment(url: str) -> str:
    """Return a URL with every `${NAME}` replaced by the variable of that name.

    Raises:
        Invalid: for a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise Invalid(
                without_secrets(url),
                found=f"no environment variable {match[1]}",
                expected="a value for it",
                next=f"export {match[1]}=...",
            )
        return os.environ[match[1]]

    return _PLACEHOLDER.sub(value, url)


def in_words(error: BaseException, url: str) -> str:
    """Return what an error says, without the secrets of the URL that it speaks of."""
    text = f"{type(error).__name__}: {error}"
    shown = without_secrets(url)
    parts = urlsplit(url)
    secrets = (url, parts.query, parts.netloc.rpartition("@")[0], parts.password, parts.fragment)
    for secret in filter(None, secrets):
        text = text.replace(secret, shown if secret == url else "…")
    return text
