#!/usr/bin/env python3
"""Draw what a terminal shows as SVG.

    picture.py OUT.svg TITLE=CAPTURE [TITLE=CAPTURE ...]

CAPTURE is a file made by `tmux capture-pane -e -p`: text with colours (SGR
sequences) and no other control. Each becomes a window; several stand below one
another. The picture brings its own dark background, so that it can be read on a
light page and on a dark one. Any other escape sequence is an error: a picture
shall not drop anything silently.

Only Python's standard library is needed. scripts/picture makes the captures.
"""

import re
import sys
import unicodedata
from html import escape

CELL_WIDTH, CELL_HEIGHT = 8.43, 19  # pixels of a cell at FONT_SIZE
FONT_SIZE = 14
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
MARGIN, TITLE_HEIGHT, GAP = 16, 34, 14  # pixels: inside a window, its bar, between windows

BACKGROUND, FOREGROUND = "#12171f", "#d7dde5"
BAR, BORDER, TITLE = "#1c232e", "#465063", "#9aa7b8"
# The sixteen colours of a terminal, chosen to be legible on BACKGROUND.
PALETTE = [
    "#000000", "#ff7b72", "#5fd38d", "#e3b341", "#79b8ff", "#d2a8ff", "#56d4dd", "#c9d1d9",
    "#8b949e", "#ffa198", "#7ee2a8", "#f2cc60", "#a5d6ff", "#e2c5ff", "#8ae6ee", "#ffffff",
]
CONTROL = re.compile("\x1b\\[([0-9;:]*)m|\x1b\\(B|[\x00-\x08\x0b-\x1f\x7f]|\x1b")


class Style:
    """Colours and weight of a cell. Colours are #rrggbb, or None for the default."""

    __slots__ = ("front", "back", "bold", "dim", "italic", "underline", "inverse")

    def __init__(self):
        self.reset()

    def reset(self):
        self.front = self.back = None
        self.bold = self.dim = self.italic = self.underline = self.inverse = False

    def key(self):
        front, back = self.front, self.back
        if self.inverse:
            front, back = back or BACKGROUND, front or FOREGROUND
        return front, back, self.bold, self.dim, self.italic, self.underline

    def apply(self, parameters):
        """Apply one SGR sequence: its numbers as text, such as "1;38;5;40"."""
        numbers = [int(n or 0) for n in re.split("[;:]", parameters)]
        while numbers:
            n = numbers.pop(0)
            if n == 0:
                self.reset()
            elif n in (1, 2, 3, 4, 7):
                setattr(self, {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse"}[n], True)
            elif n == 22:
                self.bold = self.dim = False
            elif n in (23, 24, 27):
                setattr(self, {23: "italic", 24: "underline", 27: "inverse"}[n], False)
            elif 30 <= n <= 37:
                self.front = PALETTE[n - 30]
            elif 90 <= n <= 97:
                self.front = PALETTE[n - 90 + 8]
            elif 40 <= n <= 47:
                self.back = PALETTE[n - 40]
            elif 100 <= n <= 107:
                self.back = PALETTE[n - 100 + 8]
            elif n in (38, 48):
                setattr(self, "front" if n == 38 else "back", extended(numbers))
            elif n == 39:
                self.front = None
            elif n == 49:
                self.back = None
            else:
                sys.exit(f"picture.py: SGR {n} is not known")


def extended(numbers):
    """Take 5;N or 2;R;G;B off the front and return the colour."""
    kind = numbers.pop(0)
    if kind == 2:
        return "#%02x%02x%02x" % tuple(numbers.pop(0) for _ in range(3))
    n = numbers.pop(0)
    if n < 16:
        return PALETTE[n]
    if n >= 232:
        return "#%02x%02x%02x" % ((8 + 10 * (n - 232),) * 3)
    n -= 16
    return "#%02x%02x%02x" % tuple(0 if c == 0 else 55 + 40 * c for c in (n // 36, n // 6 % 6, n % 6))


def width(character):
    """Columns that a character takes in a terminal."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def runs(line, style):
    """Yield (column, columns, text, style key) for each run of one style."""
    column, position = 0, 0
    start, text = 0, ""
    while position < len(line):
        control = CONTROL.match(line, position)
        if control is None:
            text += line[position]
            column += width(line[position])
            position += 1
            continue
        if control.group(1) is None and control.group(0) != "\x1b(B":
            sys.exit(f"picture.py: {line[position:position + 8]!r} is not a colour")
        if text:
            yield start, column - start, text, style.key()
        start, text = column, ""
        if control.group(1) is not None:
            style.apply(control.group(1))
        position = control.end()
    if text:
        yield start, column - start, text, style.key()


def draw_run(out, x, y, columns, text, key):
    front, back, bold, dim, italic, underline = key
    if back:
        out.append(f'<rect x="{x:.1f}" y="{y - 14:.1f}" width="{columns * CELL_WIDTH:.1f}" height="{CELL_HEIGHT}" fill="{back}"/>')
    visible = text.strip(" ")
    if not visible:
        return
    skipped = len(text) - len(text.lstrip(" "))
    columns = sum(width(c) for c in visible)
    style = f' fill="{front}"' if front else ""
    style += ' font-weight="600"' if bold else ""
    style += ' opacity=".65"' if dim else ""
    style += ' font-style="italic"' if italic else ""
    style += ' text-decoration="underline"' if underline else ""
    # textLength keeps the columns in line whatever monospaced font there is.
    out.append(f'<text x="{x + skipped * CELL_WIDTH:.1f}" y="{y:.1f}" textLength="{columns * CELL_WIDTH:.1f}" '
               f'lengthAdjust="spacingAndGlyphs"{style}>{escape(visible, quote=False)}</text>')


def draw_window(out, top, pixels, title, lines):
    """Draw one window and return its height."""
    height = TITLE_HEIGHT + len(lines) * CELL_HEIGHT + MARGIN + 8
    out.append(f'<rect x=".5" y="{top + .5}" width="{pixels - 1:.1f}" height="{height - 1}" rx="9" fill="{BACKGROUND}" stroke="{BORDER}"/>')
    out.append(f'<path d="M1 {top + TITLE_HEIGHT}V{top + 10}a9 9 0 0 1 9-9H{pixels - 10:.1f}a9 9 0 0 1 9 9V{top + TITLE_HEIGHT}z" fill="{BAR}"/>')
    for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        out.append(f'<circle cx="{20 + i * 20}" cy="{top + 17}" r="5.5" fill="{colour}"/>')
    out.append(f'<text x="{pixels / 2:.1f}" y="{top + 22}" fill="{TITLE}" font-size="13" text-anchor="middle">{escape(title)}</text>')
    style = Style()
    for number, line in enumerate(lines):
        y = top + TITLE_HEIGHT + 22 + number * CELL_HEIGHT
        for column, columns, text, key in runs(line, style):
            draw_run(out, MARGIN + column * CELL_WIDTH, y, columns, text, key)
    return height


def read(path):
    """The lines of a capture, without empty ones at its end."""
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    while lines and not CONTROL.sub("", lines[-1]).strip():
        lines.pop()
    return lines


def main(arguments):
    if len(arguments) < 2 or any("=" not in a for a in arguments[1:]):
        sys.exit(__doc__.split("\n\n")[1].strip())
    windows = [(title, read(path)) for title, path in (a.split("=", 1) for a in arguments[1:])]
    columns = max(sum(width(c) for c in CONTROL.sub("", line)) for _, lines in windows for line in lines)
    pixels = 2 * MARGIN + columns * CELL_WIDTH
    out, top = [], 0
    for title, lines in windows:
        top += draw_window(out, top, pixels, title, lines) + GAP
    height = top - GAP
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {pixels:.1f} {height}" width="{pixels:.0f}" height="{height}" '
            f'font-family="{FONTS}" font-size="{FONT_SIZE}" fill="{FOREGROUND}" role="img">'
            f'<style>text{{white-space:pre}}</style><title>{escape(", ".join(t for t, _ in windows))}</title>')
    with open(arguments[0], "w", encoding="utf-8") as f:
        f.write("\n".join([head, *out, "</svg>", ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
