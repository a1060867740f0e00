"""Who asks: the key of a request, its tenant and what it may do.

The tenant comes from the key, never from a body, path or query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.problems import UnauthenticatedError
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


def requires(*roles: Role) -> Callable[..., Caller]:
    """Return a dependency that lets in keys with any of ``roles`` (admin always)."""
    allowed = frozenset((*roles, "admin"))

    def authenticate(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        if credentials is None:
            raise UnauthenticatedError("send the key as 'Authorization: Bearer KEY'")
        lethe: Lethe = request.app.state.lethe
        try:
            principal = lethe.authenticate(credentials.credentials)
        except ForbiddenError as error:
            raise UnauthenticatedError("nobody knows this key") from error
        if not allowed & principal.roles:
            raise ForbiddenError(f"this needs a key with the role {' or '.join(sorted(allowed))}")
        request.state.sees_forgotten = bool({"forget", "admin"} & principal.roles)
        return Caller(lethe, principal.tenant_id, principal)

    return authenticate


ReadCaller = Annotated[Caller, Depends(requires("read"))]
WriteCaller = Annotated[Caller, Depends(requires("write"))]
ForgetCaller = Annotated[Caller, Depends(requires("forget"))]
ForgetReader = Annotated[Caller, Depends(requires("read", "forget"))]
JobReader = Annotated[Caller, Depends(requires("read", "write", "forget"))]
AdminCaller = Annotated[Caller, Depends(requires())]
