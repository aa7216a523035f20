"""Raises what is no Exception and can't be printed."""


class UnspeakableError(BaseException):
    def __str__(self):
        raise UnspeakableError


raise UnspeakableError
