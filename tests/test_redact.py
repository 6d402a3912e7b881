import base64
import json
import string
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib.errors import LoadlibError
from loadlib.redact import FRAGMENT, MASK, hide, redact, redact_argv

# put together here, so that no scanner takes them for real ones
SK = "sk-" + "proj-abcDEF0123456789_xyz"
GOOGLE = "AIza" + "SyA1234567890abcdefghij"


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        (f"Incorrect API key provided: {SK}.", f"Incorrect API key provided: {MASK}", "OpenAI"),
        ("key sk-ab***************yz bad", f"key {MASK} bad", "half-masked by the provider"),
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {MASK}", "a header"),
        ("authorization: Basic dXNlcjpwYXNz", f"authorization: Basic {MASK}", "the other scheme"),
        ("GET /v1?api_key=hunter22&x=1", f"GET /v1?api_key={MASK}&x=1", "a query"),
        ('{"api-key": "hunter22", "n": 1}', f'{{"api-key": "{MASK}", "n": 1}}', "JSON"),
        (f"?key={GOOGLE}", f"?key={MASK}", "Google"),
        ("http://me:pa55word@host/v1", f"http://{MASK}@host/v1", "a URL"),
        ("max_tokens: 128, first_token: 60s", "max_tokens: 128, first_token: 60s", "no secret"),
        ("model gpt-4o-mini, task-1234567", "model gpt-4o-mini, task-1234567", "no key either"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07text", "red text", "terminal escapes"),
        ("a\r\nb\x00c\x9b2J\u202ed", "a b c d", "controls, C1, bidirectional"),
        ("\ud800", "", "half a character cannot be written to a file"),
        ("größer 中文 🙂", "größer 中文 🙂", "text stays text"),
        ("", "", "nothing"),
    ],
)
def test_redact(text, expected, why):
    assert redact(text) == expected, why


def test_known_secrets_go_wherever_they_stand():
    assert redact("x=CORRECT-horse!", ["correct-Horse"]) == f"x={MASK}!"
    assert redact("abc", ["", "a", "abc"]) == "abc", "too short to be told from text"
    assert redact("prefix-and-more", ["prefix", "prefix-and-more"]) == MASK, "the longest first"


def test_cutting_comes_last():
    text = "x" * 190 + " " + SK
    assert len(redact(text)) == 200
    assert "sk-" not in redact(text)
    assert redact("y" * 500) == "y" * 199 + "…"
    assert len(redact("y" * 500, limit=None)) == 500


def test_command_lines():
    argv = ["loadlib", "run", "--api-key", "hunter22", "--set", f"x={SK}", "--max-tokens", "20"]
    assert redact_argv(argv) == [
        *("loadlib", "run", "--api-key", MASK, "--set", f"x={MASK}", "--max-tokens", "20")
    ]


# -- known secrets, however they are written -------------------------------------------------------

LONG = "Quiet'Canary\"7f3a91\\Zq%2Fx-" + "0123456789abcdef" * 3


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda s: s, "as it is"),
        (str.upper, "in another case"),
        (json.dumps, "as JSON"),
        (repr, "as Python"),
        (lambda s: urllib.parse.quote(s, safe=""), "in a URL"),
        (lambda s: base64.b64encode(s.encode()).decode(), "in base64"),
        (lambda s: base64.urlsafe_b64encode(s.encode()).decode(), "in base64 of URLs"),
        (lambda s: base64.b64encode(b"user:" + s.encode()).decode(), "of the basic scheme"),
        (lambda s: s[:30], "cut"),
        (lambda s: json.dumps(s)[3:40], "cut out of JSON"),
        (lambda s: f"{s[:20]}***{s[-15:]}", "half-masked by the server"),
        (lambda s: s[:25] + "\n" + s[25:], "broken into lines"),
    ],
)
def test_a_known_secret_goes_however_it_is_written(write, why):
    clean = redact(f"key {write(LONG)} is bad", [LONG], limit=None)
    assert MASK in clean
    assert clean.startswith("key ")
    assert clean.endswith(" is bad")
    assert not pieces(LONG) & pieces(clean), why


def pieces(text: str) -> set[str]:
    return {text[i : i + FRAGMENT].lower() for i in range(len(text) - FRAGMENT + 1)}


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.text(string.printable.strip() + "éß", min_size=FRAGMENT, max_size=60),
    st.text(max_size=40), st.text(max_size=40), st.integers(0, 60), st.integers(FRAGMENT, 60),
)  # fmt: skip
def test_no_dozen_characters_of_a_secret_survive(secret, before, after, start, size):
    clean = hide(before + secret[start : start + size] + after, [secret])
    assert not pieces(clean.replace(MASK, "\0")) & pieces(secret)


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=200), st.text("0123456789", min_size=FRAGMENT, max_size=30))
def test_what_is_no_secret_stays(text, secret):
    assert hide(text, [secret]) == text or pieces(text) & pieces(secret)


def test_a_secret_cut_where_texts_are_cut_is_no_secret_half_kept():
    """4,000 characters of a server's words are looked at: the end of them may be in a key."""
    key = "tok." + "".join(f"{i * 7919 % 1000:03d}q" for i in range(240))
    said = f"{key} {key} {key} {key} {key}"[:4000]
    assert len(key) > 900
    assert not pieces(redact(said, [key])) & pieces(key)


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("::error file=a::pwned", ": :error file=a::pwned", "GitHub, at the start of a line"),
        ("said  ::stop-commands::x", "said  : :stop-commands::x", "… or where one is wrapped"),
        ("##vso[task.setvariable variable=x]y", "# #vso[task.setvariable variable=x]y", "Azure"),
        ("a ##[add-path]/evil", "a # #[add-path]/evil", "GitHub's older form, anywhere"),
        ("std::vector<int>::at", "std::vector<int>::at", "C++ is no command"),
        ("## heading [1]", "## heading [1]", "nor is markdown"),
        ("a\u200eb\u061cc\ufeffd", "a b c d", "marks of direction, and what nobody sees"),
        ("hi\U000e0041\U000e0042 there", "hi  there", "text in tags, which only machines read"),
    ],
)  # fmt: skip
def test_what_a_log_would_obey(text, expected, why):
    assert redact(text) == expected, why
    assert str(LoadlibError(text)) == expected, why
