"""Draws the pictures of docs/concepts.md: `python docs/pictures/draw.py` writes them beside this file."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

FOLDER = Path(__file__).parent
INK, GREY, LINE = "#1f2933", "#7b8794", "#cbd2d9"
BLUE, GREEN, RED, YELLOW, PALE = "#2f6fb3", "#3f9b6c", "#c8553d", "#e0a93b", "#e9eef3"


class Board:
    """A drawing surface in units of about a letter's height, with the origin at the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width * 0.24, height * 0.24))
        self._axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.axis("off")

    def box(self, x: float, y: float, width: float, height: float, text: str = "", fill: str = PALE) -> None:
        """A box with a text in its middle."""
        self._axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor="white", linewidth=1.2))
        self.text(x + width / 2, y + height / 2, text, colour=INK if fill in (PALE, YELLOW, LINE) else "white")

    def card(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """A box with round corners and an edge."""
        shape = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.5", facecolor="white", edgecolor=BLUE
        )
        self._axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, text)

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """A dashed edge around what is there."""
        edge = Rectangle((x, y), width, height, facecolor="none", edgecolor=GREY, linestyle="--", linewidth=0.9)
        self._axes.add_patch(edge)

    def text(self, x: float, y: float, text: str, colour: str = INK, align: str = "center", size: float = 9) -> None:
        """A text whose middle, or side, is at x."""
        self._axes.text(x, y, text, color=colour, ha=align, va="center", fontsize=size)

    def arrow(self, x: float, y: float, to_x: float, to_y: float, colour: str = GREY) -> None:
        """An arrow."""
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        self._axes.annotate("", (to_x, to_y), (x, y), arrowprops=look)

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """A line like an arrow's."""
        self._axes.plot((x, to_x), (y, to_y), color=GREY, linewidth=1.3)


def streaming() -> Board:
    """The same retrieval, waited for and streamed."""
    board = Board(44, 15.5)
    arrivals, lengths = (10, 15, 19, 26), (2.4, 2.0, 2.8, 2.0)
    for y, title in ((2, "wait"), (9, "stream")):
        board.text(0.5, y + 0.8, title, align="left", size=11)
        board.box(5, y, 21, 1.6, "the retriever looks", LINE)
        for x in arrivals:
            board.arrow(x, y + 1.6, x, y + 2.6)
    board.box(26, 4.7, sum(lengths), 1.6, "prefill of all", BLUE)
    board.arrow(26 + sum(lengths), 7.6, 26 + sum(lengths), 6.3, GREEN)
    board.text(26 + sum(lengths) + 0.5, 7.4, "first token", GREEN, "left")
    for number, (x, length) in enumerate(zip(arrivals, lengths, strict=True), start=1):
        board.box(x, 11.7, length, 1.6, str(number), BLUE)
    board.arrow(28, 14.6, 28, 13.3, GREEN)
    board.text(28.5, 14.4, "first token", GREEN, "left")
    board.text(26, 0.8, "the last piece arrives", GREY)
    board.arrow(26, 1.3, 26, 2.0)
    return board


def changes() -> Board:
    """Append and update, and what becomes of the KV."""
    board = Board(44, 15)
    board.text(0.5, 1.8, "append", align="left", size=11)
    for x, name in ((7, "head"), (12, "A"), (17, "B")):
        board.box(x, 1, 5, 1.7, name, GREEN)
    board.box(22, 1, 5, 1.7, "C", BLUE)
    board.text(0.5, 6.4, "update", align="left", size=11)
    for x, name, fill in ((7, "head", GREEN), (12, "A", GREEN), (17, "B", RED), (22, "C", RED)):
        board.box(x, 5, 5, 1.7, name, fill)
    for x, name, fill in ((7, "head", GREEN), (12, "A", GREEN), (17, "D", BLUE), (22, "C", BLUE)):
        board.box(x, 7.6, 5, 1.7, name, fill)
    board.text(28, 5.9, "before", GREY, "left")
    board.text(28, 8.5, "after: all behind the first difference is new", GREY, "left")
    board.arrow(17, 10.9, 17, 9.4)
    board.text(17, 11.6, "longest common prefix ends here", GREY)
    for x, fill, text in ((7, GREEN, "KV stays"), (17, RED, "KV thrown away"), (29, BLUE, "to be computed")):
        board.box(x, 13.2, 1.2, 1.2, "", fill)
        board.text(x + 1.7, 13.8, text, INK, "left")
    return board


def order() -> Board:
    """A refined list in the retriever's order and in stable order."""
    board = Board(44, 13)
    rows = (
        ("first list", 1, (("A", BLUE), ("B", BLUE), ("C", BLUE), ("D", BLUE))),
        ("next, by rank", 5, (("E", BLUE), ("A", BLUE), ("C", BLUE), ("D", BLUE))),
        ("next, stable", 9, (("A", GREEN), ("C", BLUE), ("D", BLUE), ("E", BLUE))),
    )
    for title, y, documents in rows:
        board.text(0.5, y + 0.9, title, align="left", size=11)
        board.box(11, y, 4, 1.8, "head", GREEN if y > 1 else BLUE)
        for place, (name, fill) in enumerate(documents):
            board.box(15 + 4 * place, y, 4, 1.8, name, fill)
    board.text(33, 5.9, "E is new in front:\nnothing of the list stays", GREY, "left")
    board.text(33, 9.9, "A stays; B is gone,\nso what is behind it moves", GREY, "left")
    return board


def two_phases() -> Board:
    """One step of the scheduler."""
    board = Board(50, 15)
    board.card(0.5, 4, 8, 4, "sessions\nwith tokens\nto compute")
    board.card(12, 4, 10, 4, "phase 1\nwho should run,\nfor how many tokens")
    board.card(26, 4, 10, 4, "phase 2\nmemory for them")
    board.card(40, 4, 9.5, 4, "engine\nexecutes\nthe plan")
    for x, to_x in ((8.5, 12), (22, 26), (36, 40)):
        board.arrow(x, 6, to_x, 6, BLUE)
    board.text(17, 10, "policy, token budget,\nbounds of a step in time", GREY)
    board.text(31, 10, "shared, cached, on the host, free,\nor the tail of a victim", GREY)
    board.text(37.9, 5.1, "plan", BLUE)
    board.line(44.7, 8, 44.7, 12.6)
    board.line(44.7, 12.6, 4.5, 12.6)
    board.arrow(4.5, 12.6, 4.5, 8)
    board.text(25, 13.5, "commit: what was computed and sampled; the next step is planned while this one runs", GREY)
    return board


def preemption() -> Board:
    """A victim loses its tail, and what becomes of it."""
    board = Board(46, 15)
    board.text(0.5, 1.9, "victim", align="left", size=11)
    for place in range(8):
        board.box(7 + 2.2 * place, 1, 2.2, 1.8, "", GREEN if place < 4 else RED)
    board.text(11.4, 3.7, "prefix stays", GREY)
    board.text(20.2, 3.7, "tail goes, as much as is needed", GREY)
    board.arrow(17, 4.4, 10, 6.6)
    board.arrow(20.2, 4.4, 23, 6.6)
    board.arrow(23, 4.4, 37, 6.6)
    board.card(3, 6.6, 13, 3.4, "drop\nit is on the host already,\nor shared")
    board.card(17.5, 6.6, 12, 3.4, "swap\nto the host now,\nback later")
    board.card(31, 6.6, 13.5, 3.4, "recompute\nthrown away now,\ncomputed again later")
    board.text(
        23, 11.6, "whichever costs this victim least on this hardware, per second that it is likely to stay silent"
    )
    board.text(23, 13.4, "a full host means recomputing, never an error", GREY)
    return board


def roles() -> Board:
    """Separate engines for prefill and generate."""
    board = Board(46, 14)
    board.card(0.5, 4.5, 8, 4, "orchestrator\nsessions,\nevents")
    board.frame(12.5, 1, 13, 11)
    board.frame(31.5, 1, 13.5, 11)
    board.text(19, 2, "prefill engine", GREY)
    board.text(38.2, 2, "generate engine", GREY)
    for y, text in ((3.2, "mesh, weights"), (6.2, "KV pages"), (9, "first token")):
        board.box(14, y, 10, 2, text, GREEN if text == "first token" else PALE)
    for y, text in ((3.2, "mesh, weights"), (6.2, "KV pages"), (9, "all other tokens")):
        board.box(33, y, 10.5, 2, text, GREEN if text == "all other tokens" else PALE)
    board.arrow(8.5, 6.5, 12.5, 6.5, BLUE)
    board.arrow(24, 7.2, 33, 7.2, BLUE)
    board.text(28.5, 6.1, "KV", BLUE)
    board.text(28.5, 13.1, "the first token does not wait for the transfer", GREY)
    return board


PICTURES: dict[str, Callable[[], Board]] = {
    "streaming": streaming,
    "changes": changes,
    "order": order,
    "two-phases": two_phases,
    "preemption": preemption,
    "roles": roles,
}


def main() -> None:
    """Draws all; equal code gives equal files."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "s2l", "font.family": ["sans-serif"]})
    for name, draw in PICTURES.items():
        path = FOLDER / f"{name}.svg"
        draw().figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


if __name__ == "__main__":
    main()
