"""The exception that minitxl raises for mistakes of input or use, and the warning it gives."""


class MinitxlError(ValueError):
    """A mistake of input or use; its message is one line, ready to show to a user.

    It says what was wrong, both values, and what to do. The commands print it and exit with 2.
    """

    def __init__(self, message: str = ""):  # a value that it quotes may be long, or hide escapes
        text = message if len(message) <= 800 else f"{message[:500]} ... {message[-250:]}"
        super().__init__("".join(char if char.isprintable() else "?" for char in text))


class MinitxlWarning(UserWarning):
    """Something that goes on, but that the user should know; one line, like an error's."""
