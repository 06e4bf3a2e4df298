"""The exception that minitxl raises for mistakes of input or use, and the warning it gives."""


class MinitxlError(ValueError):
    """A mistake of input or use; its message is one line, ready to show to a user.

    It says what was wrong, both values, and what to do. The commands print it and exit with 2.
    """

    def __init__(self, message: object = ""):  # what it quotes may be long, or hide escapes
        text = str(message)
        text = text if len(text) <= 800 else f"{text[:500]} ... {text[-250:]}"
        marks = (c if c.isprintable() else " " if c.isspace() else "?" for c in text)
        super().__init__("".join(marks))


class MinitxlWarning(UserWarning):
    """Something that goes on, but that the user should know; one line, like an error's."""
