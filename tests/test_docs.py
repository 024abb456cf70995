"""The docs: tables match their result files, links lead somewhere, the site has every page."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import yaml

from experiments import (
    architectures,
    bench_gpu,
    bench_peft,
    elpv_table,
    kept_bytes,
    plan_tpu,
    results,
)
from experiments.ablations import __main__ as ablations
from experiments.claims import __main__ as claims
from experiments.tables import __main__ as tables
from experiments.tables.specs import HEADLINES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def result(module) -> dict:
    return results.read(module.RESULT)


@pytest.mark.parametrize(
    ("page", "made"),
    [
        ("docs/scale.md", lambda: bench_gpu.tables(result(bench_gpu)["rows"])),
        ("docs/scale.md", lambda: bench_peft.shown(result(bench_peft))),
        ("docs/scale.md", lambda: kept_bytes.results(result(kept_bytes)["bytes"])),
        ("docs/scale.md", lambda: plan_tpu.tables(result(plan_tpu)["results"])),
        (
            "docs/results.md",
            lambda: elpv_table.results(results.read(elpv_table.RESULTS / "summary.json")),
        ),
        ("docs/architectures.md", lambda: architectures.filled()),
        ("docs/claims.md", lambda: claims.page(results.read(claims.RESULTS))),
        ("docs/ablations.md", lambda: ablations.tables(results.read(ablations.RESULTS))),
    ],
    ids=[
        "bench_gpu",
        "bench_peft",
        "kept_bytes",
        "plan_tpu",
        "elpv",
        "architectures",
        "claims",
        "ablations",
    ],
)
def test_a_table_is_that_of_its_result_file(page, made):
    assert made().strip() in (ROOT / page).read_text(encoding="utf-8")


def cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def test_the_papers_tables_hold_every_number_of_ours():
    held = results.read(tables.RESULTS)["tables"]
    page = tables.PAGE.read_text(encoding="utf-8").split("\n## Table ")[1:]
    sections = {text.split(":")[0]: text for text in page}
    for number, rows in held.items():
        for row in rows:
            cells = [cell(*value) for value in row.values() if isinstance(value, list)]
            start = f"| {row['who']} | {row['data']} | {row['seeds']} | {row['n']} | "
            assert start + " | ".join(cells) in sections[number], (number, row["who"])


def test_the_results_say_what_the_tables_say():
    held = results.read(tables.RESULTS)["tables"]
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    for number, what, _, _, column in HEADLINES:
        mark = "few-shot" if what.startswith("few-shot") else ""
        row = next(
            r for r in held[str(number)] if r["who"].startswith("slava") and mark in r["who"]
        )
        assert f"| {number} | {what} | {row[column][0]:.3f} (" in page


def prose(text: str) -> str:
    """Markdown without its code blocks and code spans."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.S)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them, and explicit ones."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.M | re.S)
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(next(s for n in range(99) if (s := slug + f"-{n}" * (n > 0)) not in found))
    return found


def broken_links(page: Path) -> list[str]:
    """The relative links of a page whose file or anchor is missing."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", prose(text))
    referenced = re.findall(r"^\[[^\]]+\]: +(\S+)", prose(text), re.M)
    broken = []
    for link in inline + referenced:
        if re.match(r"[a-z][a-z+.-]*:", link):  # another site; mail
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif (
            anchor
            and target.suffix == ".md"
            and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(f"{link}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, three\n\n## Same\n\n## Same\n\n"
        "[a](#one-two-three) [b](#same-1) [c](page.md#same) [d](https://x.y/z#w) ![e](page.md)\n"
        "`[f](code.md)`\n\n```\n[g](code.md)\n# No heading\n```\n\n"
        "[`h`](gone.md#x) [i](#no-heading) [j](page.md#same-2) ![k](gone.png)\n\n[l]: gone.md\n"
    )
    assert broken_links(page) == [
        "gone.md#x: no such file",
        "#no-heading: no such heading",
        "page.md#same-2: no such heading",
        "gone.png: no such file",
        "gone.md: no such file",
    ]


def navigated(entry) -> list[str]:
    """The pages of a navigation of mkdocs.yml."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [page for part in entries for page in navigated(part)]


def test_the_navigation_has_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(navigated(settings["nav"])) == sorted(pages)


def test_the_reference_names_modules_of_the_package():
    for page in (DOCS / "reference").glob("*.md"):
        (module,) = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_the_site_names_files_that_it_lacks_instead_of_linking_to_them():
    specification = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hooks)
    text = "[results](../runs/a.json) [a.py](../b/a.py#L3) [own](own.md#x) | `<\\|end\\|>` |"
    on_site = "results (`runs/a.json`) `b/a.py` [own](own.md#x) | `<|end|>` |"

    def page(path: str) -> SimpleNamespace:
        return SimpleNamespace(file=SimpleNamespace(src_uri=path))

    assert hooks.on_page_markdown(text, page("page.md")) == on_site
    assert hooks.on_page_markdown(text, page("reference/page.md")) == text
