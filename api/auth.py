"""Who asks: the key of a request, its tenant, what it may do and how often.

The tenant comes from the key, never from a body, path or query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.limits import Limits, Use, address_of, rate_fields
from api.problems import TooManyRequestsError, UnauthenticatedError
from memory.errors import ForbiddenError
from memory.values import TenantId
from service.views import Principal, Role

if TYPE_CHECKING:
    from service.lethe import Lethe

_bearer = HTTPBearer(auto_error=False, description="A key of Lethe, as in `DATA/admin.key`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request: the facade and the tenant to ask it for."""

    lethe: Lethe
    tenant_id: TenantId
    principal: Principal


def requires(*roles: Role, use: Use) -> Callable[..., Caller]:
    """Return a dependency that lets in keys with any of ``roles`` (admin always), as often as ``use`` may."""
    allowed = frozenset((*roles, "admin"))

    def authenticate(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if credentials is None:
            raise UnauthenticatedError("send the key as 'Authorization: Bearer KEY'")
        lethe: Lethe = request.app.state.lethe
        principal = _identify(request, lethe, credentials.credentials)
        _take(request, principal, use)
        if not allowed & principal.roles:
            raise ForbiddenError(f"this needs a key with the role {' or '.join(sorted(allowed))}")
        request.state.sees_forgotten = bool({"forget", "admin"} & principal.roles)
        return Caller(lethe, principal.tenant_id, principal)

    return authenticate


def _identify(request: Request, lethe: Lethe, key: str) -> Principal:
    """Return who a key belongs to.

    An address that tried too many keys that nobody knows waits, without a look at the database; keys seen to
    work here lately still pass, as many clients may share an address.
    """
    limits: Limits = request.app.state.limits
    address = address_of(request.scope)
    if limits.failures is not None and key not in limits.welcome:
        look = limits.failures.take(address, only_look=True)
        if not look.allowed:
            raise TooManyRequestsError(
                "too many keys that nobody knows came from this address",
                retry_in_seconds=look.retry_in_seconds,
            )
    try:
        principal = lethe.authenticate(key)
    except ForbiddenError as error:
        limits.welcome.discard(key)
        if limits.failures is not None:
            limits.failures.take(address)
        raise UnauthenticatedError("nobody knows this key; it may have expired or been revoked") from error
    limits.welcome.add(key)
    request.state.key_id = principal.key_id
    return principal


def _take(request: Request, principal: Principal, use: Use) -> None:
    """Count a request against its key's rate, where there is one."""
    limits: Limits = request.app.state.limits
    buckets = limits.uses.get(use)
    if buckets is None:
        return
    taken = buckets.take(principal.key_id)
    request.state.rate_fields = rate_fields(use, buckets, taken)
    if not taken.allowed:
        raise TooManyRequestsError(
            f"this key may do {buckets.burst} {use} requests in {buckets.window_seconds} s",
            retry_in_seconds=taken.retry_in_seconds,
        )


def _operator(caller: Annotated[Caller, Depends(requires(use="write"))]) -> Caller:
    if not caller.principal.operator:
        raise ForbiddenError("this needs an admin key of the tenant that runs the service")
    return caller


ReadCaller = Annotated[Caller, Depends(requires("read", use="read"))]
AnswerCaller = Annotated[Caller, Depends(requires("read", use="answer"))]
WriteCaller = Annotated[Caller, Depends(requires("write", use="write"))]
ForgetCaller = Annotated[Caller, Depends(requires("forget", use="write"))]
ForgetReader = Annotated[Caller, Depends(requires("read", "forget", use="read"))]
JobReader = Annotated[Caller, Depends(requires("read", "write", "forget", use="read"))]
AdminCaller = Annotated[Caller, Depends(requires(use="write"))]
OperatorCaller = Annotated[Caller, Depends(_operator)]
