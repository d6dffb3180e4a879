from __future__ import annotations

import pytest

from d2llm_vdb.ingest.headings import Outline
from d2llm_vdb.ingest.html import html_document


def text(page: str | bytes) -> str:
    return html_document(page.encode() if isinstance(page, str) else page, "f").text


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("un<b>believ</b>able H<sub>2</sub>O", "unbelievable H2O"),
        ("<code>pip <i>inst<b>all</b></i></code>, <a>then\n go</a>.", "pip install, then go."),
        ("<p>one<p>two<div>three</div>four", "one\n\ntwo\n\nthree\n\nfour"),
        ("a<br>b<hr>c", "a\nb\n\nc"),
        ("un&shy;break<wbr>able &lt;b&gt; &amp; caf&eacute;&nbsp;x", "unbreakable <b> & café x"),
        ("<h1>In <em>two</em>\n lines<br>x</h1><h3>H</h3>y", "# In two lines x\n\n### H\n\ny"),
        ("<ul><li>one<li>two<ol start=3><li>x<li>y</ol></ul>", "- one\n- two\n  3. x\n  4. y"),
        ("<dl><dt>Term<dd>Meaning<dt>Other<dd>Second</dl>", "Term\n: Meaning\nOther\n: Second"),
        ("<pre>def f():\n    return 1  # &lt;\n</pre>", "```\ndef f():\n    return 1  # <\n```"),
        ("<pre><code><div>a</div><div>b</div></code></pre>", "```\na\nb\n```"),
        ("<pre><ol><li>a<br></li><li> b\n</li><li>c</ol></pre>", "```\na\n b\nc\n```"),
        ("<pre>a<p>b</p>c</pre>d", "```\na\nb\nc\n```\n\nd"),
        ("<pre>```\n# no heading\n```</pre>", "````\n```\n# no heading\n```\n````"),
        (
            "<table><caption>Sizes<tr><th>Name<th>Size<tr><td>a<td><p>1</p><p>2</p></table>",
            "Sizes\n\n| Name | Size |\n| --- | --- |\n| a | 1 2 |",
        ),
        ("<table><tr><td><h1>Layout</h1><td><ul><li>x</ul></table>", "# Layout\n\n- x"),
        ("<aside>side</aside><details><summary>Sum</summary>Det</details>", "side\n\nSum\n\nDet"),
        ("<h2>Install<a class=headerlink href=#i>¶</a></h2>", "## Install"),
        ("<p>one <b>two <i>six</b> four<li>a</foo>&x; a < b", "one two six four\n\n- a&x; a < b"),
        ("<![nothing known here>text<!-- a comment -->", "text"),
        ("<article>x<footer>kept</footer></article><footer>on every page</footer>", "x\n\nkept"),
        ("<blockquote>x<footer>who</footer></blockquote>", "x\n\nwho"),
        ("a<search>b</search>c", "a\n\nb\n\nc"),
        ("<dl><dt><b>x</b><span class=classifier>int</span><dd>D</dl>", "x : int\n: D"),
        ("<dt>y: <span class='a classifier'>int</span>", "y: int"),
    ],
)  # fmt: skip
def test_a_page_says_what_a_browser_shows(page: str, expected: str) -> None:
    assert text(page) == expected


@pytest.mark.parametrize(
    "part",
    [
        "<script>no</script>", "<style>no</style>", "<noscript>no</noscript>",
        "<template>no</template>", "<svg><text>no</text></svg>", "<nav><ul><li>no</ul></nav>",
        "<div role=navigation>no</div>", "<p hidden>no", "<p style='color:red; display: none'>no",
        "<span aria-hidden=true>no</span>", "<select><option>no</select>",
    ],
)  # fmt: skip
def test_scripts_styles_navigation_and_hidden_parts_are_left_out(part: str) -> None:
    assert text(f"<div>before</div>{part}<div>after</div>") == "before\n\nafter"


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("utf-8", ""),
        ("utf-8", "<meta charset=klingon>"),
        ("utf-16", ""),
        ("shift_jis", "<meta http-equiv=Content-Type content='text/html; charset=Shift_JIS'>"),
        ("iso-2022-jp", "<meta charset=iso-2022-jp>"),
        ("euc-jp", "<?xml version='1.0' encoding='euc-jp'?>"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_declares(encoding: str, head: str) -> None:
    page = f"{head}<title>題</title><p>日本語のテキスト".encode(encoding)
    document = html_document(page, "f")
    assert (document.title, document.text) == ("題", "日本語のテキスト")


@pytest.mark.parametrize(
    "head",
    [
        "<!-- <meta charset=utf-16> --><meta charset=koi8-r>",
        "<script>a = '<meta charset=big5>'</script><meta charset=koi8-r>",
        "<meta name=x content='text/html; charset=big5'><meta charset=koi8-r>",
        "<meta http-equiv='Content-Type' content='text/html; charset=KOI8-R'>",
        "<?xml version='1.0' encoding='big5'?><meta charset='koi8-r'/>",
        f"<!-- {'x' * 5000} --><meta charset=koi8-r>",
    ],
)
def test_what_a_page_declares_is_looked_for_where_browsers_do(head: str) -> None:
    assert text(f"{head}<p>Привет, мир".encode("koi8-r")) == "Привет, мир"


def test_a_page_in_utf8_is_read_as_that_whatever_it_declares() -> None:
    assert text("<meta charset=iso-8859-1><p>Привет".encode()) == "Привет"


@pytest.mark.parametrize(
    ("page", "paths"),
    [
        ("<p># apt install foo<p># apt update<h2>Next</h2><p>x", ["Next"]),
        ("<p>```</p><h1>A</h1>x<h2>B # C</h2>y", ["A", "A > B # C"]),
        ("1<br>---<br>2<h6>Z</h6>end", ["Z"]),
        ("<h2>one<p>two</p></h2>x", ["one"]),
        ("<ul><li>a<li>b</ul><dl><dt>c<dd>d</dl><h3>E<br>F</h3>x", ["E F"]),
    ],
)
def test_headings_of_a_page_are_its_own_and_nothing_that_looks_like_one(
    page: str, paths: list[str]
) -> None:
    document = html_document(page.encode(), "f")
    assert Outline(document.text, document.headings).paths() == paths


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
@pytest.mark.parametrize("words", ["Привет мир", "It’s", "plain"])
def test_a_byte_order_mark_counts_more_than_what_a_page_declares(encoding: str, words: str) -> None:
    page = f"\ufeff<meta charset=iso-8859-1><p>{words}"
    assert text(page.encode(encoding)) == words


@pytest.mark.parametrize(
    ("label", "encoding", "words"),
    [
        ("ISO-8859-1", "cp1252", "It’s “fine”"),
        ("us-ascii", "cp1252", "café – 5 €"),
        ("iso-8859-9", "cp1254", "“İstanbul”"),
        ("iso-8859-8-i", "iso8859-8", "שלום"),
        ("windows-874", "cp874", "สวัสดี…"),
        ("Shift_JIS", "cp932", "①番目の髙橋さん"),
        ("x-sjis", "cp932", "①番目の髙橋さん"),
        ("gb2312", "gb18030", "朱镕基"),
        ("gbk", "gb18030", "㐀䶮"),
        ("big5", "big5hkscs", "香港嘅㗎"),
        ("euc-kr", "cp949", "똠방각하"),
        ("utf-16", "utf-8", "“fine”"),  # as which it could not be found
        ("utf-7", "utf-8", "5 +AD4- “4”"),
        ("a\0b", "utf-8", "“4”"),
        ("unicode_escape", "utf-8", "C:\\new “4”"),
    ],
)
def test_the_name_of_an_encoding_means_what_it_means_to_a_browser(
    label: str, encoding: str, words: str
) -> None:
    assert text(f"<meta charset={label}><p>{words}".encode(encoding)) == words


@pytest.mark.parametrize("head", ["", "<meta charset=utf-8>"])
def test_a_broken_byte_is_replaced_and_the_rest_stays(head: str) -> None:
    page = f"{head}<p>café 日本 ".encode() + b"\xe9 end"
    assert text(page) == "café 日本 � end"


def test_a_page_that_declares_nothing_and_is_not_utf8_is_read_as_windows_1252_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert text("<p>“Zürich” ß".encode("cp1252")) == "“Zürich” ß"
    assert "f declares no encoding that is known and is not UTF-8; it is read as" in caplog.text


@pytest.mark.parametrize("first", ["main", "article", "section", "header", "my-element"])
def test_a_page_without_tags_of_head_and_body_is_read_from_its_first_element(first: str) -> None:
    page = f"<!doctype html><meta charset=utf-8><title>Name</title><{first}><p>One.</p></{first}>"
    assert text(page) == "One."
    assert text(f"{page}<p>Two.") == "One.\n\nTwo."


def test_nesting_at_any_depth_is_read() -> None:
    assert text("<div>" * 20_000 + "deep") == "deep"


def test_entities_that_a_page_declares_are_not_followed() -> None:
    page = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><p>&a;</p>'
    assert text(page).endswith("&a;")
