import pytest

from loadlib.redact import MASK, redact, redact_argv

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
