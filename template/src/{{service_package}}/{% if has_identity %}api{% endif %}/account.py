"""What users do with their own account, by a token with the scope `account`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from marty_lib import Bearer, Forbidden, Principal, require

from ..domain.accounts import AccountService
from .schemas import CodeIn, PasswordChange, RecoveryCodes, SecondFactorOut, SessionOut


async def own_account(caller: Annotated[Principal, Depends(require("account"))]) -> Principal:
    """Return the user who calls.

    Raises:
        Forbidden: where it is a client that acts for itself.
    """
    if "gid" not in caller.claims:
        raise Forbidden("The token stands for a client, not for a user.")
    return caller


Caller = Annotated[Principal, Depends(own_account)]


def account_routes(accounts: AccountService, bearer: Bearer) -> APIRouter:
    """Return the account's routes."""
    router = APIRouter(prefix="/v1/account", tags=["account"], dependencies=[Depends(bearer)])

    @router.get("/sessions")
    async def list_sessions(caller: Caller) -> list[SessionOut]:
        found = await accounts.sessions(UUID(caller.subject))
        return [SessionOut.of(session, caller.claims["sid"]) for session in found]

    @router.delete("/sessions/{session_id}", status_code=204)
    async def end_session(session_id: UUID, caller: Caller) -> None:
        await accounts.end_session(UUID(caller.subject), session_id)

    @router.post("/password", status_code=204)
    async def change_password(change: PasswordChange, caller: Caller) -> None:
        current, new = change.current.get_secret_value(), change.new.get_secret_value()
        await accounts.change_password(UUID(caller.subject), current=current, new=new)

    @router.post("/second-factor")
    async def begin_second_factor(caller: Caller) -> SecondFactorOut:
        secret, uri = await accounts.begin_second_factor(UUID(caller.subject))
        return SecondFactorOut(secret=secret, uri=uri)

    @router.post("/second-factor/confirm")
    async def confirm_second_factor(code: CodeIn, caller: Caller) -> RecoveryCodes:
        return RecoveryCodes(codes=await accounts.confirm_second_factor(UUID(caller.subject), code.code))

    @router.post("/second-factor/remove", status_code=204)
    async def remove_second_factor(code: CodeIn, caller: Caller) -> None:
        await accounts.remove_second_factor(UUID(caller.subject), code.code)

    return router
