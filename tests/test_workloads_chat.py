"""Chat: recorded turns with their growing history, cut to the window, or to an exact length."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_stand_ins import Model, says

from loadlib import tokens
from loadlib.errors import DataError, ScenarioError
from loadlib.lengths import TABLES, LogNormal, Uniform
from loadlib.quality import Said
from loadlib.workloads import build
from loadlib.workloads.chat import BUILT_IN, ChatSpec
from loadlib.workloads.conversations import load

REAL = Path(__file__).parents[2] / "shared" / "conversations"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/conversations is not there")
BOTH = tuple(tokens.VOCABULARIES)


def chat(seed=42, **settings):
    return build("chat", ChatSpec(kind="chat", **settings), seed)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Makes a data file of conversations given as lists of texts, a user's first."""

    def file(*conversations, system=None):
        records = []
        for texts in conversations:
            pairs = zip(("user", "assistant") * len(texts), texts, strict=False)
            messages = [{"role": role, "content": text} for role, text in pairs]
            if system:
                messages.insert(0, {"role": "system", "content": system})
            records.append(json.dumps({"messages": messages}))
        path = tmp_path_factory.mktemp("data") / "chat.jsonl"
        path.write_text("\n".join(records), encoding="utf-8")
        return str(path)

    return file


def texts(prompt):
    return [message["content"] for message in prompt.messages]


def billed(prompt, encoding="o200k_base"):
    return tokens.chat_tokens(prompt.messages, encoding)


# The built-in set


def test_the_built_in_set_is_what_it_should_be():
    found = load(BUILT_IN)
    langs = Counter(one.lang for one in found.conversations)
    assert found.invalid == 0
    assert len(found.conversations) >= 40
    assert {"en", "zh", "es", "de", "fr", "ar", "hi", "ja", "pt"} <= set(langs)
    for one in found.conversations:
        roles = [message["role"] for message in one.messages]
        assert 2 <= len(one.ends) <= 5
        assert roles == ["user", "assistant"] * len(one.ends)
    whole = [texts[0]["content"] for texts in (one.messages for one in found.conversations)]
    assert len(set(whole)) == len(whole)
    assert len({one.lang for one in found.conversations[:9]}) == 9  # a short run is a mix too


@pytest.mark.parametrize("encoding", BOTH)
def test_every_built_in_prompt_is_counted_exactly(encoding):
    workload = chat()
    model = Model(encoding=encoding)
    for n in range(workload.size):
        prompt = workload.prompt(model, n)
        assert prompt.tokens == prompt.asked_tokens == billed(prompt, encoding)
        assert (prompt.cut_tokens, prompt.exact, prompt.max_tokens) == (None, True, 128)
        assert prompt.messages[-1]["role"] == "user"


# Turns and history


def test_a_request_is_the_nth_turn_with_all_that_was_said_before(file):
    workload = chat(data=file("abcd", "ef", "ghi"))
    said = ["".join(texts(workload.prompt(Model(), n))) for n in range(7)]
    assert said == ["a", "abc", "e", "g", "ghi", "a", "abc"]  # and over again
    assert workload.size == 5
    roles = [message["role"] for message in workload.prompt(Model(), 1).messages]
    assert roles == ["user", "assistant", "user"]


def test_turns_caps_every_conversation(file):
    workload = chat(data=file("abcdef", "ghi"), turns=2)
    said = ["".join(texts(workload.prompt(Model(), n))) for n in range(workload.size)]
    assert said == ["a", "abc", "g", "ghi"]
    assert chat(data=file("abcdef", "ghi"), turns=1).size == 2


def test_system_stands_first_instead_of_a_recorded_one(file):
    data = file("abc", system="recorded")
    assert texts(chat(data=data).prompt(Model(), 1)) == ["recorded", "a", "b", "c"]
    prompt = chat(data=data, system="ours").prompt(Model(), 1)
    assert prompt.messages[0] == {"role": "system", "content": "ours"}
    assert texts(prompt) == ["ours", "a", "b", "c"]
    assert prompt.tokens == billed(prompt)
    assert texts(chat(data=file("abc"), system="ours").prompt(Model(), 0)) == ["ours", "a"]


def test_output_caps_go_round_and_the_rest_is_passed_on(file):
    workload = chat(data=file("a"), output_tokens=(8, 16), extra_body={"top_k": 1})
    made = [workload.prompt(Model(), n) for n in range(3)]
    assert [prompt.max_tokens for prompt in made] == [8, 16, 8]
    assert made[0].extra_body == {"top_k": 1}
    assert made[0].workload == "chat"
    assert made[0].model == "m"


def test_any_answer_will_do_and_none_will_not(file):
    data = file("a")
    assert chat(data=data, check=False).prompt(Model(), 0).check is None
    prompt = chat(data=data).prompt(Model(), 0)
    assert says(prompt, "yes")
    assert not says(prompt, " \n")


def test_an_unknown_tokenizer_is_estimated(file):
    prompt = chat(data=file("a")).prompt(Model(encoding=None), 0)
    assert (prompt.exact, prompt.tokens) == (False, billed(prompt))


@settings(max_examples=30, deadline=None)
@given(
    order=st.lists(st.integers(0, 500), max_size=12),
    lengths=st.sampled_from([None, (300,), (100, 400)]),
    window=st.sampled_from([None, 700]),
)
def test_access_is_random_and_pure(order, lengths, window):
    model = Model(context_window=window)
    fresh = [chat(prompt_tokens=lengths).prompt(model, n) for n in order]
    workload = chat(prompt_tokens=lengths)
    for n in reversed(order):
        workload.prompt(model, n)
    assert [workload.prompt(model, n) for n in order] == fresh


def test_special_tokens_in_a_conversation_are_text(file):
    prompt = chat(data=file(["say <|endoftext|> twice"])).prompt(Model(), 0)
    assert prompt.tokens > 12
    assert prompt.tokens == billed(prompt)


# The window


def words(n):
    return " ".join(["word"] * n)  # n tokens


def test_a_history_too_long_loses_its_oldest_turns(file):
    data = file([words(100), words(100), words(50), words(50), words(20)])
    workload = chat(data=data, output_tokens=(10,))
    natural = workload.prompt(Model(), 2)
    for window, kept in ((360, 5), (346, 3), (160, 3), (155, 3), (140, 1), (60, 1)):
        prompt = workload.prompt(Model(context_window=window), 2)
        assert texts(prompt) == texts(natural)[-kept:]
        assert prompt.tokens == billed(prompt) <= window - 10
        assert prompt.asked_tokens == natural.tokens
        assert prompt.cut_tokens == (None if kept == 5 else prompt.tokens)
        assert prompt.messages[0]["role"] == "user"
    cut = workload.skipped(Model(context_window=160))
    assert cut == ("chat: 1 of 1 conversations cut from their oldest turns to 150 for m",)
    assert workload.skipped(Model(context_window=1_000)) == workload.skipped(Model()) == ()


def test_a_question_too_long_by_itself_loses_its_beginning(file):
    text = " ".join(f"word{n}" for n in range(500)) + " and the question?"
    workload = chat(data=file(["first", "answer", text]), output_tokens=(10,), system="Be brief.")
    prompt = workload.prompt(Model(context_window=200), 1)
    assert prompt.messages[0]["content"] == "Be brief."
    assert len(prompt.messages) == 2
    assert text.endswith(texts(prompt)[1])
    assert texts(prompt)[1].endswith("and the question?")
    assert 180 < prompt.tokens == billed(prompt) <= 190
    assert (prompt.cut_tokens, prompt.asked_tokens) == (
        prompt.tokens,
        workload.prompt(Model(), 1).tokens,
    )


def test_a_recorded_system_message_yields_when_nothing_else_can(file):
    workload = chat(data=file(["question"], system=words(300)), output_tokens=(10,))
    prompt = workload.prompt(Model(context_window=100), 0)
    assert texts(prompt) == ["question"]
    assert prompt.tokens == billed(prompt)
    assert workload.skipped(Model(context_window=100)) != ()


def test_a_window_without_room_for_any_question_is_not_served(file):
    workload = chat(data=file("a"))
    model = Model(context_window=140)
    assert not workload.serves(model)
    assert workload.skipped(model) == ("chat: skipped for m (its window is 140 tokens)",)
    assert workload.expected_tokens(model) == (0, 0)
    with pytest.raises(ValueError, match="window of m"):
        workload.prompt(model, 0)
    assert workload.serves(Model(context_window=150))


# prompt_tokens


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("length", [20, 50, 200, 1_000, 20_000])
def test_exactly_as_long_as_asked(encoding, length):
    workload = chat(prompt_tokens=(length,))
    model = Model(encoding=encoding)
    for n in range(0, workload.size, 3 if length < 5_000 else 20):
        prompt = workload.prompt(model, n)
        assert prompt.tokens == length == billed(prompt, encoding)
        assert (prompt.asked_tokens, prompt.cut_tokens) == (length, None)
        assert prompt.messages[-1]["role"] == "user"


ODD = st.sampled_from("\r\n/ aZ.,!'é好🙂\u0301\u200d<|1\t़का")


@settings(max_examples=120, deadline=None)
@given(
    said=st.lists(st.text(ODD, min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=5),
    length=st.integers(30, 400),
    system=st.sampled_from([None, "Be brief."]),
    encoding=st.sampled_from(BOTH),
    window=st.sampled_from([None, 450]),
)
def test_exact_for_any_text(file, said, length, system, encoding, window):
    workload = chat(data=file(said), prompt_tokens=(length,), system=system, output_tokens=(60,))
    for n in range(workload.size):
        prompt = workload.prompt(Model(encoding=encoding, context_window=window), n)
        expected = min(length, 390) if window else length
        assert prompt.tokens == expected == billed(prompt, encoding)
        assert prompt.messages[-1]["role"] == "user"


def test_padding_stands_before_the_first_question_and_keeps_the_text(file):
    for first in ("Where is it?", "\nWhere?", "/help me", "\r\n\r\n/x"):
        workload = chat(data=file([first, "There.", "Thanks"]), prompt_tokens=(500,))
        prompt = workload.prompt(Model(), 1)
        assert texts(prompt)[0].endswith(f".\n\n{first}")
        assert texts(prompt)[1:] == ["There.", "Thanks"]
        assert billed(prompt) == 500
        assert prompt.messages[0]["role"] == "user"


def test_turns_of_a_conversation_share_their_padding_and_others_do_not(file):
    workload = chat(data=file(["Hi", "Yes?", "Bye"], ["Hi", "Yes?", "Bye"]), prompt_tokens=(900,))
    heads = [texts(workload.prompt(Model(), n))[0][:200] for n in range(4)]
    assert heads[0] == heads[1]
    assert heads[2] == heads[3]
    assert heads[0] != heads[2]


def test_lengths_and_the_window_follow_the_same_rule_as_documents():
    workload = chat(prompt_tokens=(500, 1_000, 2_000), output_tokens=(100,))
    model = Model(context_window=1_000)
    made = [workload.prompt(model, n) for n in range(3)]
    assert [prompt.tokens for prompt in made] == [500, 900, 500]
    assert [prompt.asked_tokens for prompt in made] == [500, 1_000, 500]
    assert [prompt.cut_tokens for prompt in made] == [None, 900, None]
    assert workload.skipped(model) == (
        "chat: 1,000 prompt tokens cut to 900 for m (window 1,000 − 100 for the answer)",
        "chat: 2,000 prompt tokens skipped for m (its window is 1,000 tokens)",
    )
    assert workload.expected_tokens(model) == (700, 100)
    assert not chat(prompt_tokens=(500,)).serves(Model(context_window=400))


def test_too_small_a_length_is_refused():
    with pytest.raises(ScenarioError, match=r"workloads\.chat\.prompt_tokens: 10 is too short"):
        chat(prompt_tokens=(10,))
    with pytest.raises(ScenarioError, match="90 is too short"):
        chat(prompt_tokens=(90,), system=words(100))


# Estimates and data files


def test_expected_tokens_are_the_mean_of_what_is_sent(file):
    workload = chat(output_tokens=(10, 30))
    exact = [workload.prompt(Model(), n).tokens for n in range(workload.size)]
    assert workload.expected_tokens(Model()) == (pytest.approx(sum(exact) / len(exact)), 20)
    small = chat(data=file([words(500)]), output_tokens=(10,))
    assert small.expected_tokens(Model(context_window=200)) == (190, 10)


def test_broken_lines_are_refused_or_counted(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": 1}\n')
    with pytest.raises(DataError, match=r"chat\.jsonl:2: "):
        chat(data=str(path))
    workload = chat(data=str(path), skip_invalid=True)
    assert (workload.size, workload.invalid_skipped) == (1, 1)


@needs_real
@pytest.mark.parametrize(
    ("name", "turns", "encoding"),
    [("mtbench101.jsonl", 4_208, "o200k_base"), ("crosswoz_val.jsonl", 4_229, "cl100k_base")],
)
def test_real_conversations(name, turns, encoding):
    workload = chat(data=str(REAL / name), output_tokens=(24,))
    assert workload.size == turns
    for n in range(0, turns, 97):
        for window in (None, 512):
            prompt = workload.prompt(Model(encoding=encoding, context_window=window), n)
            assert prompt.tokens == billed(prompt, encoding)
            assert window is None or prompt.tokens <= window - 24
    mean, _ = workload.expected_tokens(Model(encoding=encoding))
    assert 50 < mean < 2_000


@needs_real
def test_real_conversations_at_an_exact_length():
    workload = chat(data=str(REAL / "mtbench101.jsonl"), turns=3, prompt_tokens=(700,))
    for n in range(0, workload.size, 61):
        assert billed(workload.prompt(Model(), n)) == 700


# Lengths that are drawn


AZURE = TABLES["azure-conv"]


def test_drawn_lengths_are_sent_exactly_and_the_same_whoever_asks():
    given = {"prompt_tokens": AZURE[0], "output_tokens": AZURE[1]}
    workload = chat(**given)
    made = [workload.prompt(Model(), n) for n in range(60)]
    assert [chat(**given).prompt(Model(), n) for n in (59, 7)] == [made[59], made[7]]
    assert all(prompt.tokens == billed(prompt) for prompt in made)
    assert len({prompt.tokens for prompt in made}) > 30
    assert len({prompt.max_tokens for prompt in made}) > 30
    assert all(prompt.tokens == max(prompt.asked_tokens, 15) for prompt in made)
    other = [workload.prompt(Model("other"), n).tokens for n in range(60)]
    assert other != [prompt.tokens for prompt in made]


def test_a_draw_shorter_than_a_question_is_sent_as_one_and_said():
    workload = chat(prompt_tokens=Uniform(1, 100), system="Be brief.")
    [line] = workload.skipped(Model())
    assert line == (
        "chat: 21.0 % of the prompt lengths are below the shortest prompt for m: sent with 22"
    )
    made = [workload.prompt(Model(), n) for n in range(200)]
    assert min(prompt.asked_tokens for prompt in made) < 5
    assert min(prompt.tokens for prompt in made) == 22
    assert all(prompt.tokens == billed(prompt) for prompt in made)


def test_draws_beyond_the_window_are_drawn_again_and_their_share_is_said():
    workload = chat(prompt_tokens=Uniform(101, 1_100), output_tokens=(100,))
    model = Model(context_window=600)
    assert workload.skipped(model) == tuple(
        f"chat: {share} (its window is 600 tokens)"
        for share in (
            "20.0 % of the prompts cut for m to what their answers leave",
            "50.0 % of the prompt lengths skipped for m",
        )
    )
    made = [workload.prompt(model, n) for n in range(400)]
    assert all(101 <= prompt.asked_tokens <= 600 for prompt in made)
    assert all(prompt.tokens == min(prompt.asked_tokens, 500) for prompt in made)
    cut = sum(prompt.cut_tokens is not None for prompt in made) / len(made)
    assert abs(cut - 0.2) < 0.1  # five standard errors
    mean, cap = workload.expected_tokens(model)
    # uniform over 101…600, those above 500 as 500
    assert mean == pytest.approx(0.8 * 300.5 + 0.2 * 500, abs=1)
    assert cap == 100
    assert workload.serves(Model(context_window=200))  # cut to 100
    assert not workload.serves(Model(context_window=100))
    assert workload.skipped(Model(context_window=90)) == (
        "chat: 100.0 % of the prompt lengths skipped for m (its window is 90 tokens)",
    )


def test_drawn_answers_leave_room_for_a_prompt():
    workload = chat(output_tokens=Uniform(1, 1_000))
    model = Model(context_window=512)
    made = [workload.prompt(model, n) for n in range(200)]
    assert max(prompt.max_tokens for prompt in made) > 450
    assert all(prompt.tokens + prompt.max_tokens <= 512 for prompt in made)
    assert all(prompt.tokens == billed(prompt) for prompt in made)
    cut, skipped = workload.skipped(model)
    assert cut.endswith("can be cut from their oldest turns to what their answers leave for m")
    assert skipped == "chat: 50.3 % of the output caps skipped for m (its window is 512 tokens)"
    mean, cap = workload.expected_tokens(model)
    assert cap == pytest.approx(249, abs=2)  # half of 512 − 15, the shortest prompt
    sent = [workload.prompt(model, n).tokens for n in range(workload.size)]
    assert 0.75 * mean < sum(sent) / len(sent) < mean  # whole turns are left out
    natural = chat(output_tokens=Uniform(1, 1_000))
    assert natural.skipped(Model()) == ()
    assert natural.expected_tokens(Model())[1] == pytest.approx(500.5, abs=1)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.sampled_from([(300,), (100, 400), Uniform(1, 900), AZURE[0], LogNormal(200, 9_000)]),
    outputs=st.sampled_from([(50,), (10, 90), Uniform(1, 300), AZURE[1]]),
    window=st.sampled_from([None, 60, 700, 4_096]),
    ordinal=st.integers(0, 10**6),
)
def test_whatever_the_lengths_a_prompt_and_its_answer_fit_the_window(
    lengths, outputs, window, ordinal
):
    workload, model = (
        chat(prompt_tokens=lengths, output_tokens=outputs),
        Model("m", context_window=window),
    )
    if not workload.serves(model):
        assert workload.expected_tokens(model) == (0, 0)
        assert workload.skipped(model)
        with pytest.raises(ValueError, match="window of m"):
            workload.prompt(model, ordinal)
        return
    prompt = workload.prompt(model, ordinal)
    assert prompt.tokens == billed(prompt)
    assert window is None or prompt.tokens + prompt.max_tokens <= window
    assert window is None or prompt.asked_tokens <= window
    mean, cap = workload.expected_tokens(model)
    assert mean > 0
    assert cap > 0


def test_a_distribution_that_is_too_short_as_a_whole_is_refused():
    with pytest.raises(ScenarioError, match=r"prompt_tokens: 12 is too short"):
        chat(prompt_tokens=Uniform(3, 12))


# Languages


def test_languages_choose_among_the_built_in_conversations():
    workload = chat(languages=("zh", "ja"))
    found = [workload.prompt(Model(), n) for n in range(workload.size)]
    assert {prompt.variant for prompt in found} == {"zh", "ja"}
    everything = chat()
    assert workload.size == sum(
        everything.prompt(Model(), n).variant in ("zh", "ja") for n in range(everything.size)
    )
    for language in ("en", "zh", "es", "fr", "de", "ja"):
        assert chat(languages=(language,)).size >= 8


def test_a_language_that_is_not_there_is_refused_with_those_that_are(file, tmp_path):
    with pytest.raises(ScenarioError) as caught:
        chat(languages=("en", "xx"))
    said = "workloads.chat.languages: the built-in set has no 'xx', only en, zh, es, de, fr, ja, "
    assert str(caught.value).startswith(said)
    with pytest.raises(ScenarioError, match="no conversation of the data file says its language"):
        chat(data=file("abc"), languages=("en",))
    path = tmp_path / "tagged.jsonl"
    said = '{"lang": "%s", "messages": [{"role": "user", "content": "%s"}]}\n'
    path.write_text(said % ("pt-BR", "oi") + said % ("en", "hi") + said % ("<b>no tag", "hm"))
    assert chat(data=str(path), languages=("pt-BR",)).size == 1
    assert chat(data=str(path)).prompt(Model(), 2).variant is None
    with pytest.raises(ScenarioError, match=r"the data file has no 'pt', only pt-BR, en$"):
        chat(data=str(path), languages=("pt",))


def test_conversations_of_ones_own_history_have_drawn_caps_and_a_language():
    workload = chat(history="own", languages=("ja", "fr"), output_tokens=Uniform(20, 400))
    made = [workload.prompt(Model(), n) for n in range(30)]
    assert {prompt.variant for prompt in made} == {"ja", "fr"}
    assert len({prompt.max_tokens for prompt in made}) > 15
    followed = made[3].then(Said("はい。")).prompt
    assert (followed.variant, followed.max_tokens) == (made[3].variant, made[3].max_tokens)
    drawn = workload.expected_tokens(Model())
    fixed = chat(history="own", languages=("ja", "fr"), output_tokens=(210,))
    assert drawn == pytest.approx(fixed.expected_tokens(Model()), rel=0.01)
