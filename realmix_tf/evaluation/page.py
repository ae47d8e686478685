"""Pieces of a self-contained HTML page. Every function escapes the text it is given."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from realmix_tf.errors import printable


class Html(str):
    """Text that is HTML already; anything else is escaped before it enters a page."""

    __slots__ = ()


def text(value: object) -> Html:
    """Escapes ``value`` for use in content and in quoted attributes; ``Html`` stays as it is."""
    return (
        value if isinstance(value, Html) else Html(html.escape(printable(str(value)), quote=True))
    )


def join(parts: Iterable[object]) -> Html:
    """Concatenates, escaping what is not ``Html``."""
    return Html("".join(text(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """``tag("p", "a<b", class_="x")`` → ``<p class="x">a&lt;b</p>``; None attributes vanish."""
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{inside}>{join(content)}</{name}>")


def data_uri(png: bytes) -> str:
    """A PNG as the value of ``src``."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def picture(light: bytes, dark: bytes, alt: str) -> Html:
    """An image in two editions, of which the reader's light or dark setting picks one."""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{data_uri(dark)}">'
    image = f'<img src="{data_uri(light)}" alt="{text(alt)}" loading="lazy">'
    return Html(f"<picture>{source}{image}</picture>")


def figure(body: Html, caption: object, wide: bool = False) -> Html:
    """A picture with its title above it."""
    title = tag("figcaption", caption)
    return tag("figure", title, body, class_="card plot wide" if wide else "card plot")


def tiles(pngs: Sequence[bytes], captions: Sequence[object]) -> Html:
    """Small images side by side, pixels square, each with a caption (may be empty)."""
    cells = []
    for png, caption in zip(pngs, captions, strict=True):
        image = Html(f'<img src="{data_uri(png)}" alt="" loading="lazy">')
        cells.append(tag("figure", image, tag("figcaption", caption) if caption else ""))
    return tag("div", *cells, class_="tiles")


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], words: int = 1, class_: str = ""
) -> Html:
    """A table that scrolls where it must; all columns but the first ``words`` are numbers."""
    first = tag(
        "tr", *(tag("th", h, class_=None if i < words else "n") for i, h in enumerate(head))
    )
    body = [
        tag("tr", *(tag("td", c, class_=None if i < words else "n") for i, c in enumerate(row)))
        for row in rows
    ]
    inner = tag("table", tag("thead", first), tag("tbody", *body))
    return tag("div", inner, class_=f"scroll {class_}".strip())


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names and values as a definition list."""
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs), class_="facts")


def section(title: str, *content: object, lead: object = "") -> Html:
    """A section with a heading and, under it, a sentence that says how to read it."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else "", *content)


def page(title: str, *body: object) -> str:
    """The whole document. It loads nothing and runs nothing; a policy in it forbids both."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(text(part) for part in body)
        + "\n</main>\n</body>\n</html>\n"
    )


# The dark card colour is that of plots.DARK.paper, on which the dark plots are drawn.
STYLE = """
:root{--page:#f4f6f9;--card:#fff;--ink:#1b2230;--soft:#5c677b;--line:#e2e7ef;--accent:#2f6bed;
--wash:#e9f0fe;--mute:#aab4c4;--good:#177a51;--bad:#be3450}
@media (prefers-color-scheme:dark){:root{--page:#0e1116;--card:#171b22;--ink:#e7ebf2;
--soft:#98a3b5;--line:#2a313c;--accent:#7aa7ff;--wash:#1c2636;--mute:#5a6577;--good:#56cf9d;
--bad:#f2849a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 72px}
header .kind{color:var(--accent);font-weight:600;font-size:.8rem;letter-spacing:.08em;
text-transform:uppercase;margin:0}
h1{font-size:clamp(1.6rem,4.5vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:.15em 0 .2em;
overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:2.4em 0 .2em}
h3{font-size:1rem;margin:1.5em 0 .5em}
p{margin:.4em 0}
.lead,.sub,.note{color:var(--soft);max-width:76ch;overflow-wrap:anywhere}
.lead{margin:0 0 1em}
.card>h3:first-child{margin-top:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px 22px}
.headline{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr));
margin:26px 0 16px}
.headline .card{display:flex;flex-direction:column;gap:2px}
.headline .what{color:var(--soft);font-size:.86rem;font-weight:600;overflow-wrap:anywhere}
.headline .big{font-size:clamp(2.3rem,6vw,3.3rem);font-weight:700;letter-spacing:-.035em;
line-height:1.1;font-variant-numeric:tabular-nums}
.headline .big small{font-size:.45em;font-weight:600;letter-spacing:0;color:var(--soft);
margin-left:.2em}
.headline .why{color:var(--soft);font-size:.86rem}
.main .big{color:var(--accent)} .up .big{color:var(--good)} .down .big{color:var(--bad)}
.bars{display:grid;gap:14px}.card+.card.warn,.card+.note{margin-top:16px}
.bars .name{display:flex;justify-content:space-between;gap:12px;font-size:.9rem;margin-bottom:4px}
.bars .name b{font-variant-numeric:tabular-nums}
.bars .name span{overflow-wrap:anywhere}
.track{position:relative;height:14px;border-radius:7px;background:var(--wash)}
.track i{position:absolute;inset:0 auto 0 0;border-radius:7px;background:var(--mute)}
.track i.first{background:var(--accent)}
.track u{position:absolute;top:-3px;bottom:-3px;border:solid var(--ink);border-width:0 2px;
opacity:.75}
.track u::after{content:"";position:absolute;left:0;right:0;top:50%;border-top:2px solid var(--ink)}
.facts{display:grid;gap:2px 28px;margin:0;
grid-template-columns:repeat(auto-fit,minmax(min(100%,170px),1fr))}
.card>.facts+.facts{grid-template-columns:1fr}
.facts div{padding:9px 0;border-bottom:1px solid var(--line)}
.facts dt{color:var(--soft);font-size:.82rem} .facts dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:6px 10px}
.scroll.tall{max-height:560px;overflow-y:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:8px 12px;text-align:left;border-bottom:1px solid var(--line);vertical-align:baseline}
th{color:var(--soft);font-weight:600;font-size:.8rem;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
.n{text-align:right;white-space:nowrap}
td.n .track{display:inline-block;width:72px;height:8px;margin-left:10px;vertical-align:middle}
.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
.plot{margin:0} .plot.wide{grid-column:1/-1}
.plot figcaption{font-weight:600;font-size:.95rem;margin-bottom:10px}
.plot img{display:block;max-width:100%;height:auto;margin:0 auto}
.tiles{display:grid;gap:12px;grid-template-columns:repeat(8,minmax(0,1fr))}
.tiles figure{margin:0;text-align:center}
.tiles img{display:block;border-radius:6px;image-rendering:pixelated;width:100%;height:auto}
.tiles figcaption{font-size:.76rem;color:var(--soft);line-height:1.3;margin-top:4px;
overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px 20px;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.86rem;margin:.6em 0}
pre,code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.mono{font-size:.82rem;overflow-wrap:anywhere}
.warn{border-left:4px solid var(--bad)} ul{padding-left:1.2em;margin:.4em 0}
details{margin:.8em 0} summary{cursor:pointer;font-weight:600;padding:.3em 0}
details .scroll{margin-top:.6em}
footer{margin-top:3em;color:var(--soft);font-size:.84rem}
@media (max-width:560px){.tiles{grid-template-columns:repeat(4,minmax(0,1fr))}
main{padding:24px 14px 48px}.card{padding:16px}th,td{padding:7px 8px}}
@media print{body{background:#fff}main{max-width:none;padding:0}
.card,.scroll,pre{break-inside:avoid}}
"""
