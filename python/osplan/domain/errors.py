"""The one exception for what a person can fix; everything else is a bug and keeps its stack."""


class UserError(Exception):
    """A mistake a person can fix: *where: expected this, got that*, a stable code and the next thing to do.

    `code` is upper snake case and never changes once released; `hint` is one sentence or empty.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"
